//! The one error type of the library: which file, where in it, and one kind per way the input can be wrong.
//!
//! Every kind prints as a sentence fragment that says what happened, and [`ErrorKind::advice`] says what to do next.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// What every fallible function of the library returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A file that could not be used, the place in it, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Error {
    /// The file or directory, as the user named it.
    pub path: PathBuf,
    /// The place in the file, where one is known.
    pub at: Option<At>,
    /// The tensor concerned, where there is one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// A byte offset from the start of the file.
    Byte(u64),
    /// A byte offset in a member of an archive.
    Member(String, u64),
    /// A position in a text file, from 1.
    Line(usize, usize),
    /// A key in a JSON side file.
    Key(String),
}

impl At {
    /// The position of a byte of `text`.
    pub fn in_text(text: &str, byte: usize) -> Self {
        let before = text.get(..byte).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
        At::Line(line, column)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Byte(offset) => write!(f, "byte {offset}"),
            At::Member(name, offset) => write!(f, "member {}, byte {offset}", name.escape_debug()),
            At::Line(line, column) => write!(f, "line {line}, column {column}"),
            At::Key(key) => write!(f, "key {}", key.escape_debug()),
        }
    }
}

/// One variant per way the input can be wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorKind {
    // Files.
    /// The operating system refused.
    #[error("could not {doing}: {message}")]
    Io {
        /// The attempt, as a verb phrase.
        doing: &'static str,
        /// The operating system's words.
        message: String,
    },
    /// There is nothing at this path.
    #[error("no such file or directory")]
    NotFound,
    /// A directory, FIFO, device or socket where a file is needed.
    #[error("is a {what}, not a regular file")]
    NotARegularFile {
        /// What it is.
        what: &'static str,
    },
    /// A file of zero bytes.
    #[error("the file is empty")]
    EmptyFile,
    /// Size, modification time or inode changed between opening and the end of reading.
    #[error("the file changed while it was read")]
    ChangedWhileReading,
    /// A read past the end of the file.
    #[error("{needed} bytes are needed here, the file has {available}")]
    PastEndOfFile {
        /// Bytes needed, counted from the start of the file.
        needed: u64,
        /// The file's length.
        available: u64,
    },
    /// A file named by another file that is not beside it.
    #[error("it names the file {}, which is not beside it", name.escape_debug())]
    PathEscapes {
        /// The name as written.
        name: String,
    },
    /// A file larger than what this kind of file may be.
    #[error("{what} has {actual} bytes, more than the {limit} that are read")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// Its size in bytes.
        actual: u64,
        /// The largest size read.
        limit: u64,
    },

    // Devices.
    /// A GPU that was asked for and cannot be used.
    #[error("{message}")]
    NoDevice {
        /// What was looked for, and what was found.
        message: String,
    },
    /// A GPU that did not do a piece of work.
    #[error("the GPU did not do it: {message}")]
    Device {
        /// What went wrong.
        message: String,
    },

    // What the file is.
    /// No reader recognises the first bytes.
    #[error("not a format that flashpoint reads")]
    UnknownFormat,
    /// A format recognised but not read.
    #[error("{format} is not read by this version")]
    UnsupportedFormat {
        /// Its name.
        format: &'static str,
    },
    /// The few lines that git-lfs leaves in place of a file it has not fetched.
    #[error("is a git-lfs pointer, not the file that it points to")]
    GitLfsPointer,
    /// A page that a server sent instead of the file.
    #[error("is a web page, not a checkpoint")]
    WebPage,
    /// Text of some kind.
    #[error("is {what}, not a checkpoint")]
    TextFile {
        /// What kind of text.
        what: &'static str,
    },
    /// A readable container without a single tensor.
    #[error("no tensor was found")]
    NoTensors,
    /// A directory without a file that looks like a checkpoint.
    #[error("the directory holds no checkpoint that flashpoint recognises")]
    NoCheckpoint,
    /// The place of a run where nothing of one was found.
    #[error("no checkpoint, gradient dump or log of a run was found there{}", up_to(*until))]
    NothingOfARun {
        /// The last step that was looked at, where the user asked to stop there.
        until: Option<u64>,
    },
    /// A JSON or TOML side file that does not parse, or does not say what it must.
    #[error("{what} is not usable: {message}")]
    SideFile {
        /// Which file it is.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },

    /// A column that the user names and no log has.
    #[error("no log has a column {}; the columns there are: {}", name.escape_debug(), columns.escape_debug())]
    NoSuchColumn {
        /// The name as given.
        name: String,
        /// The columns of the logs that were read, for people.
        columns: String,
    },

    // safetensors headers.
    /// The header is not JSON from here on.
    #[error("the header is not the JSON it must be: {}", message.escape_debug())]
    HeaderSyntax {
        /// The parser's words.
        message: String,
    },
    /// The value of a name is not a dtype, a shape and two offsets.
    #[error("the header's entry is not dtype, shape and data_offsets: {}", message.escape_debug())]
    HeaderEntry {
        /// The parser's words.
        message: String,
    },
    /// `__metadata__` is something else than text to text.
    #[error("__metadata__ does not map text to text: {}", message.escape_debug())]
    HeaderMetadata {
        /// The parser's words.
        message: String,
    },
    /// A name that occurs again further on: readers silently take the last one.
    #[error("the same name occurs again further on, and readers take that one")]
    RepeatedName,
    /// Offsets that run backwards.
    #[error("its bytes end at {end}, before they begin at {start}")]
    ReversedOffsets {
        /// First byte, as written.
        start: u64,
        /// One past the last, as written.
        end: u64,
    },
    /// Packed elements that do not fill their last byte.
    #[error("{elements} elements of {bits} bits do not fill whole bytes")]
    PartialByte {
        /// Number of elements.
        elements: u64,
        /// Bits of each.
        bits: u64,
    },
    /// Two tensors that claim the same bytes.
    #[error("its bytes are also claimed by tensor {}", other.escape_debug())]
    OverlappingTensors {
        /// The one that begins first.
        other: String,
    },
    /// Data that belongs to no tensor, in a format whose writers leave none: a tensor is missing from the list.
    #[error("{bytes} bytes of data belong to no tensor")]
    UncoveredBytes {
        /// How many, in all places together.
        bytes: u64,
    },

    // Checkpoints of several files.
    /// A directory that its writer has not finished.
    #[error("the checkpoint is incomplete: {missing}")]
    Incomplete {
        /// What is not there.
        missing: String,
    },
    /// A directory of checkpoints where one is needed.
    #[error("the directory holds {}", these(*count, newest))]
    SeveralCheckpoints {
        /// How many.
        count: usize,
        /// The name of the one with the highest step.
        newest: String,
    },
    /// A shard that the index names and that is not there, or cannot be read.
    #[error("the index puts it in the shard {}, which is missing or unreadable", shard.escape_debug())]
    MissingShard {
        /// The shard's file name.
        shard: String,
    },
    /// A shard beside the index that the index does not name.
    #[error("the index does not name this shard: it was not read")]
    StrayShard,
    /// A model file beside the one that was read.
    #[error("holds a model beside {}: its tensors were not read", read.escape_debug())]
    OtherModel {
        /// The file, or the index, that was read.
        read: String,
    },
    /// A file of the directory, or of a folder in it, that may hold tensors and is no part of what was read.
    #[error("it may hold tensors, and was not read beside {}{}", read.escape_debug(), and_so(*others, named))]
    NotRead {
        /// The file, or the index, that was read.
        read: String,
        /// How many others there are.
        others: usize,
        /// The first of these.
        named: Vec<String>,
    },
    /// A tensor that the index names and that its shard does not hold.
    #[error("the index puts it in the shard {}, which does not hold it", shard.escape_debug())]
    NotInShard {
        /// The shard's file name.
        shard: String,
    },
    /// A tensor of a shard that the index does not name.
    #[error("the index does not name this tensor, or puts it in another shard")]
    NotInIndex,
    /// One name, two tensors.
    #[error("another file holds a tensor of this name with other contents: {}", other.escape_debug())]
    DifferentCopies {
        /// The file that the index names, or the first one.
        other: String,
    },
    /// An index whose total is not that of its tensors.
    #[error("the index states {stated} bytes of tensors, the shards hold {actual}")]
    TotalSize {
        /// As written in the index.
        stated: String,
        /// Bytes of all tensors.
        actual: u64,
    },
    /// Places that state different steps.
    #[error("its parts are of different steps: {}", claims.join(", "))]
    StepsDisagree {
        /// Each place and its step; the first one is believed.
        claims: Vec<String>,
    },

    // Networks.
    /// Nothing says which network the tensors belong to, or it is one that is not built.
    #[error("which network it is cannot be told: {message}")]
    UnknownArchitecture {
        /// What is missing, or what is not known.
        message: String,
    },
    /// The network is a transformer by its names and shapes, which do not tell its heads.
    #[error(
        "its names and shapes are those of {architecture}, and how many heads its attention has is in none of them"
    )]
    UnknownHeads {
        /// The network.
        architecture: &'static str,
    },
    /// Parameters that the network needs and the checkpoint does not have.
    #[error("the network needs {} that {} not there: {}", parameters(*count), if *count == 1 { "is" } else { "are" }, first.join(", ").escape_debug())]
    MissingParameters {
        /// How many.
        count: usize,
        /// The first of them.
        first: Vec<String>,
    },
    /// A parameter of another shape than the network's.
    #[error("the network needs it in shape {expected:?}, it has {actual:?}")]
    ParameterShape {
        /// By the network.
        expected: Vec<u64>,
        /// By the checkpoint.
        actual: Vec<u64>,
    },
    /// An input that the network does not take.
    #[error("the network does not take this input: {}", message.escape_debug())]
    NetworkInput {
        /// What does not fit.
        message: String,
    },

    // Training.
    /// Examples that cannot be trained on.
    #[error("it cannot be trained on: {}", message.escape_debug())]
    TrainingData {
        /// What is wrong, with the sample where it is one.
        message: String,
    },
    /// A run that cannot go on as it is asked to.
    #[error("the run cannot go on: {}", message.escape_debug())]
    CannotGoOn {
        /// Why not.
        message: String,
    },

    // Arguments.
    /// A flag that is given for some arms and not for the others.
    #[error("arms cannot be told: {message}")]
    UnpairedArms {
        /// How often it is given, and how many arms there are.
        message: String,
    },
    /// A measurement file where elements are compared.
    #[error("is a measurement file, and holds no elements to compare")]
    NoElements,
    /// A name for a measurement file by which nothing would take it for one.
    #[error("its name does not end in {ending}, and no command would know it again")]
    OutputName {
        /// What it has to end in.
        ending: &'static str,
    },
    /// An output path that must not be written.
    #[error("is a {what}, and is not overwritten")]
    NotAnOutput {
        /// What it is.
        what: &'static str,
    },
    /// A measurement file that nothing can be held against.
    #[error("it cannot be the baseline: {message}")]
    Baseline {
        /// Why not.
        message: String,
    },
    /// A measurement file without Jacobians.
    #[error("is a measurement file, and holds no Jacobians")]
    NoJacobian,
    /// A file of inputs that a network does not take.
    #[error("it cannot be the probe: {}", message.escape_debug())]
    Probe {
        /// Why not.
        message: String,
    },
    /// A format that a command does not have.
    #[error("this command does not write {format}")]
    NoSuchReport {
        /// Its name.
        format: String,
        /// The formats that there are.
        advice: &'static str,
    },
    /// A file that would be replaced.
    #[error("it is there already, and is not overwritten")]
    AlreadyThere,
    /// A file that would have to be edited, in a form in which that is not done.
    #[error("it cannot be edited in place: {message}")]
    NotEditable {
        /// Why not.
        message: String,
    },
    /// A repair, a conversion or a resume that is not done, because what came of it would not be what was asked for.
    #[error("{message}")]
    NotDone {
        /// Why not.
        message: String,
        /// What to do instead, as an imperative.
        advice: &'static str,
    },
    /// A rule code or name that is none.
    #[error("there is no rule {}{nearest}", code.escape_debug())]
    UnknownRule {
        /// As the user wrote it.
        code: String,
        /// The nearest that there is, in words; empty where none is near.
        nearest: String,
    },
    /// A command that is none.
    #[error("there is no command {}{nearest}", name.escape_debug())]
    UnknownCommand {
        /// As the user wrote it.
        name: String,
        /// The nearest that there is, in words; empty where none is near.
        nearest: String,
    },

    // Tensors, whatever the format.
    /// The shape's product does not fit.
    #[error("the shape {shape:?} has more elements than can be addressed")]
    ShapeOverflow {
        /// The shape as written.
        shape: Vec<u64>,
    },
    /// The bytes of a tensor disagree with its shape and dtype.
    #[error("shape and dtype need {expected} bytes, the file gives it {actual}")]
    SizeMismatch {
        /// Bytes by shape and dtype.
        expected: u64,
        /// Bytes by the file.
        actual: u64,
    },
    /// A dtype no reader knows.
    #[error("unknown dtype {}", dtype.escape_debug())]
    UnknownDtype {
        /// As written in the file.
        dtype: String,
    },
    /// A kind of tensor that has no plain elements.
    #[error("{what} tensors are listed but not measured{}", of_shape(shape.as_deref()))]
    UnsupportedTensor {
        /// Quantised, sparse, nested, meta …
        what: &'static str,
        /// Its shape, where the file says it.
        shape: Option<Box<[u64]>>,
    },
    /// A view that reaches outside its storage, or with negative sizes or strides.
    #[error("the view does not fit its storage: {message}")]
    ViewOutOfStorage {
        /// Which bound is broken.
        message: String,
    },

    // PyTorch and zip.
    /// The end of the archive does not lead to a list of members.
    #[error("the zip directory cannot be read: {message}")]
    ZipDirectory {
        /// What is wrong with it.
        message: String,
    },
    /// Members that could be read in more than one way, or lead outside of the archive.
    #[error("the zip member {} {fault}", name.escape_debug())]
    ZipMember {
        /// The member.
        name: String,
        /// What is wrong with it.
        fault: ZipFault,
    },
    /// A member whose bytes do not have the checksum the directory gives it.
    #[error("the zip member {} has checksum {actual:08x}, the directory says {expected:08x}", name.escape_debug())]
    ZipChecksum {
        /// The member.
        name: String,
        /// CRC-32 by the directory.
        expected: u32,
        /// CRC-32 of the bytes.
        actual: u32,
    },
    /// A zip archive of another kind.
    #[error("the zip archive has no data.pkl")]
    NoPickle,
    /// Two archives in one: what is loaded depends on who loads it.
    #[error("the archive holds several pickles: {}", names.join(", ").escape_debug())]
    SeveralPickles {
        /// The first two of them.
        names: Vec<String>,
    },
    /// Storages in another byte order.
    #[error("the storages have byte order {}, only little is read", found.escape_debug())]
    ByteOrder {
        /// The archive's `byteorder` record.
        found: String,
    },
    /// A tensor whose storage is not in the archive.
    #[error("its storage {} is not in the archive", key.escape_debug())]
    MissingStorage {
        /// The storage's key.
        key: String,
    },
    /// A file of before PyTorch 1.6 in another protocol than all of them.
    #[error("the legacy PyTorch protocol is {}, the only one known is 1001", found.map_or("no number".to_owned(), |found| found.to_string()))]
    LegacyProtocol {
        /// As written.
        found: Option<i64>,
    },
    /// The list that says in which order storages follow the pickle.
    #[error("the list of storages is not usable: {message}")]
    StorageList {
        /// What is wrong with it.
        message: &'static str,
    },
    /// A storage in the list that no tensor is a view of: without an element type its length is unknown.
    #[error("no tensor says how long the storage {} is", key.escape_debug())]
    UnusedStorage {
        /// The storage's key.
        key: String,
    },
    /// A storage with another count of elements than the tensors on it were pickled with.
    #[error("the storage {} states {stated} elements, the pickle {expected}", key.escape_debug())]
    StorageLength {
        /// The storage's key.
        key: String,
        /// The count before its bytes.
        stated: i64,
        /// The count in the pickle.
        expected: u64,
    },
    /// A storage behind one that does not end where it should.
    #[error("its storage {} lies behind one of unknown length", key.escape_debug())]
    UnplacedStorage {
        /// The storage's key.
        key: String,
    },
    /// The arguments of a call that rebuilds a tensor are not those PyTorch writes.
    #[error("the call that rebuilds it is malformed: {message}")]
    MalformedTensor {
        /// Which argument, and how.
        message: &'static str,
    },
    /// An array file in a version that is not known.
    #[error("the header of the array has version {major}.{minor}, the last one known is 3.0")]
    NpyVersion {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// An array file whose header is not the Python literal that numpy writes.
    #[error("the header of the array is not that of numpy: {message}")]
    NpyHeader {
        /// What is wrong with it.
        message: &'static str,
    },
    /// More bytes than the array has elements.
    #[error("{bytes} bytes follow the array")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
    /// A byte that is no pickle opcode.
    #[error("0x{byte:02x} is not a pickle opcode")]
    PickleOpcode {
        /// The byte.
        byte: u8,
    },
    /// A protocol newer than any that exists.
    #[error("the pickle declares protocol {protocol}, the last one known is 5")]
    PickleProtocol {
        /// As declared.
        protocol: u8,
    },
    /// An argument that reaches past the end, or no STOP.
    #[error("the pickle ends where {needed} more bytes are needed")]
    PickleTruncated {
        /// Bytes that are not there.
        needed: u64,
    },
    /// An opcode that takes more from the stack than lies on it.
    #[error("{opcode} takes from an empty stack")]
    PickleStack {
        /// The opcode's name.
        opcode: &'static str,
    },
    /// An opcode that collects up to a mark that was never set.
    #[error("{opcode} finds no mark on the stack")]
    PickleMark {
        /// The opcode's name.
        opcode: &'static str,
    },
    /// A reference to something never memorised.
    #[error("nothing was memorised under {index}")]
    PickleMemo {
        /// The reference.
        index: u64,
    },
    /// An argument or operand that the opcode cannot have.
    #[error("{opcode}: {message}")]
    PickleArgument {
        /// The opcode's name.
        opcode: &'static str,
        /// What is wrong.
        message: &'static str,
    },
    /// More values, names or depth than any checkpoint has.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most that is read.
        limit: u64,
    },
    /// One dict with the same key more than once: the last value counts.
    #[error("the key {} stands {count} times in one dict; the last value counts", key.escape_debug())]
    DuplicateKey {
        /// The key.
        key: String,
        /// How often.
        count: u64,
    },
    /// Different tensors under one name.
    #[error("{count} tensors have this name")]
    DuplicateName {
        /// How many.
        count: u64,
    },
}

/// What can be wrong with a member of a zip archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZipFault {
    /// Its flags say that it is encrypted.
    Encrypted,
    /// Compressed by a method other than deflate.
    Method(u16),
    /// A storage that is compressed: its elements cannot be read in place.
    Compressed,
    /// Two members of that name.
    Duplicate,
    /// A name that is empty, absolute, not UTF-8, or with `..`, a backslash or NUL.
    UnsafeName,
    /// Its bytes are also those of another member, or of the directory.
    Overlap,
    /// Another name in its local header than in the directory.
    TwoNames,
    /// A stored member with two different sizes.
    Sizes,
    /// What it inflates to is not as long as declared.
    Inflate,
    /// No local header where the directory says, or data past the end of the file.
    NotThere,
}

impl fmt::Display for ZipFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encrypted => f.write_str("is encrypted"),
            Self::Method(method) => write!(f, "is compressed by method {method}, only deflate is read"),
            Self::Compressed => f.write_str("is compressed, storages are read only where they are stored"),
            Self::Duplicate => f.write_str("stands twice in the directory"),
            Self::UnsafeName => f.write_str("has a name that leads outside of the archive"),
            Self::Overlap => f.write_str("shares bytes with another"),
            Self::TwoNames => f.write_str("has another name where its bytes lie"),
            Self::Sizes => f.write_str("is stored but has two sizes"),
            Self::Inflate => f.write_str("does not inflate to the size it declares"),
            Self::NotThere => f.write_str("is not where the directory says"),
        }
    }
}

/// So many checkpoints, and the newest by name.
fn these(count: usize, newest: &str) -> String {
    let newest = newest.escape_debug();
    match count {
        1 => format!("1 checkpoint, {newest}"),
        _ => format!("{count} checkpoints; the newest is {newest}"),
    }
}

/// The other files that the same is so of, the first of them by name.
fn and_so(others: usize, named: &[String]) -> String {
    if others == 0 {
        return String::new();
    }
    let more = if others > named.len() { ", …" } else { "" };
    format!("; {others} more: {}{more}", named.join(", ").escape_debug())
}

/// So many parameters.
fn parameters(count: usize) -> String {
    if count == 1 { "a parameter".to_owned() } else { format!("{count} parameters") }
}

/// The end of a sentence about steps that may go up to one only.
fn up_to(until: Option<u64>) -> String {
    until.map_or_else(String::new, |step| format!(", up to step {step}"))
}

/// The end of a sentence about a tensor whose shape may be known.
fn of_shape(shape: Option<&[u64]>) -> String {
    shape.map_or_else(String::new, |shape| format!(", this one has shape {shape:?}"))
}

impl ErrorKind {
    /// What to do next, as an imperative.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Io { .. } => "check the path and its permissions",
            Self::NotFound => "check the spelling of the path",
            Self::NotARegularFile { .. } => "name a checkpoint file or a checkpoint directory",
            Self::EmptyFile => "the write never happened: take an earlier checkpoint",
            Self::ChangedWhileReading => "wait until the writer has finished, then run again",
            Self::PastEndOfFile { .. } => {
                "the file is truncated: copy it again, or take an earlier checkpoint"
            }
            Self::PathEscapes { .. } => {
                "put the file beside the others of its checkpoint; others are never opened"
            }
            Self::TooLarge { .. } => "check that this is the file you meant",
            Self::UnknownFormat => {
                "flashpoint reads .safetensors and PyTorch .pt .pth .bin .ckpt: convert it, or name another file"
            }
            Self::UnsupportedFormat { .. } => "convert it to safetensors with the framework that wrote it",
            Self::GitLfsPointer => "fetch the file: git lfs pull",
            Self::WebPage => {
                "download the file again: the server answered with a page, perhaps a login or an error"
            }
            Self::TextFile { .. } => "name the file that holds the weights, or the directory of both",
            Self::NoDevice { .. } => {
                "`flashpoint devices` says what is missing; without --device the processor computes"
            }
            Self::Device { .. } => "--device cpu leaves the GPU out",
            Self::NoTensors => "name the file that holds the weights",
            Self::NoCheckpoint => "name the directory that holds the model file",
            Self::NothingOfARun { until: None } => {
                "name the directory that training wrote to, or a checkpoint or log in it"
            }
            Self::NothingOfARun { until: Some(_) } => "look at later steps, or name another directory",
            Self::SideFile { .. } => "mend the file, or move it away",
            Self::NoSuchColumn { .. } => {
                "name one of them with --columns QUANTITY=NAME, or the log that has it with --log FILE"
            }
            Self::Incomplete { .. } => "wait for the writer, or take an earlier checkpoint",
            Self::SeveralCheckpoints { count: 1, .. } => "name it",
            Self::SeveralCheckpoints { .. } => "name one of them",
            Self::MissingShard { .. } => "copy the shard beside the index again",
            Self::StrayShard => "move it away, or mend the index",
            Self::OtherModel { .. } => {
                "inspect it by its own name: which of them is loaded depends on the loader"
            }
            Self::NotRead { .. } => "if one of them is part of the model, look at it by its own path",
            Self::NotInShard { .. } | Self::NotInIndex | Self::TotalSize { .. } => {
                "index and shards are of different writes: copy both again, or write the index anew"
            }
            Self::DifferentCopies { .. } => "find out which file is current, and move the other away",
            Self::StepsDisagree { .. } => "check that all files are of the same save",
            Self::ShapeOverflow { .. }
            | Self::SizeMismatch { .. }
            | Self::ViewOutOfStorage { .. }
            | Self::HeaderSyntax { .. }
            | Self::HeaderEntry { .. }
            | Self::HeaderMetadata { .. }
            | Self::RepeatedName
            | Self::ReversedOffsets { .. }
            | Self::PartialByte { .. }
            | Self::OverlappingTensors { .. }
            | Self::UncoveredBytes { .. } => {
                "the file is damaged or was made to mislead: copy it again, or take an earlier checkpoint"
            }
            Self::UnknownArchitecture { .. } => "give --model: a file that says what the network is",
            Self::UnknownHeads { .. } => {
                "put its config.json beside it, or give --heads to `flashpoint jacobian`"
            }
            Self::MissingParameters { .. } | Self::ParameterShape { .. } => {
                "the config is of another model: put the right one beside it, or give --model"
            }
            Self::NetworkInput { .. } => "give an input that fits, or fewer --tokens",
            Self::TrainingData { .. } => "mend the examples, or choose another --normalization or load size",
            Self::CannotGoOn { .. } => {
                "give another --save-path, or --weight-reset True to start over; `flashpoint resume` changes settings"
            }
            Self::UnpairedArms { .. } => "give it once for all arms, or once for each",
            Self::NoElements => "name the checkpoint that was measured",
            Self::OutputName { .. } => "give the output a name that ends so",
            Self::NotAnOutput { .. } => "name another file for the output",
            Self::Baseline { .. } => {
                "measure the checkpoint that was accepted: flashpoint measure CHECKPOINT --output accepted.measured.json"
            }
            Self::NoJacobian => {
                "name the checkpoint that was measured, or measure it with --measure jacobian"
            }
            Self::Probe { .. } => {
                "give .npy, .npz or safetensors with an array `input` whose first axis is the batch; leave --input out for a synthetic probe"
            }
            Self::AlreadyThere => "name another place, or move it away first",
            Self::NotEditable { .. } => {
                "flashpoint convert CHECKPOINT --to FILE.safetensors writes its tensors anew"
            }
            Self::NotDone { advice, .. } | Self::NoSuchReport { advice, .. } => advice,
            Self::UnknownRule { .. } => "`flashpoint rules` lists them",
            Self::UnknownCommand { .. } => "`flashpoint help` lists them",
            Self::UnknownDtype { .. } | Self::UnsupportedTensor { .. } => {
                "cast the tensor to a plain float dtype if it matters to the diagnosis"
            }
            Self::ZipDirectory { .. }
            | Self::ZipChecksum { .. }
            | Self::MissingStorage { .. }
            | Self::StorageLength { .. }
            | Self::UnplacedStorage { .. }
            | Self::NpyHeader { .. }
            | Self::TrailingBytes { .. } => {
                "the file is damaged or truncated: copy it again, or take an earlier checkpoint"
            }
            Self::ZipMember {
                fault: ZipFault::Compressed | ZipFault::Encrypted | ZipFault::Method(_),
                ..
            } => {
                "load it with PyTorch in a sandbox and save it again: torch.save stores its members as they are"
            }
            Self::ZipMember { .. } | Self::SeveralPickles { .. } => {
                "do not load this file: torch.save does not write such archives"
            }
            Self::NoPickle => "name a file that torch.save wrote",
            Self::ByteOrder { .. } => "load it with PyTorch on any machine and save it again",
            Self::LegacyProtocol { .. } | Self::StorageList { .. } | Self::UnusedStorage { .. } => {
                "the file was not written by torch.save, or is damaged: find out who wrote it"
            }
            Self::NpyVersion { .. } => "load it with numpy and save it again",
            Self::MalformedTensor { .. } => "the file was not written by torch.save: find out who wrote it",
            Self::PickleTruncated { .. } => {
                "the pickle is truncated or was made to mislead: do not load it, copy it again"
            }
            Self::PickleOpcode { .. }
            | Self::PickleProtocol { .. }
            | Self::PickleStack { .. }
            | Self::PickleMark { .. }
            | Self::PickleMemo { .. }
            | Self::PickleArgument { .. } => {
                "the pickle is damaged or was made to mislead: do not load it, copy it again"
            }
            Self::TooMany { .. } => "split the checkpoint: weights in one file, lists and logs in another",
            Self::DuplicateKey { .. } | Self::DuplicateName { .. } => "give each tensor a name of its own",
        }
    }

    /// The shape of the tensor it is about, where the file says it.
    pub fn shape(&self) -> Option<&[u64]> {
        match self {
            Self::UnsupportedTensor { shape, .. } => shape.as_deref(),
            Self::ShapeOverflow { shape } => Some(shape),
            _ => None,
        }
    }

    /// True where data is lost or wrong; false for what is only odd, such as an index with a wrong total.
    pub fn is_damage(&self) -> bool {
        !matches!(
            self,
            Self::StrayShard
                | Self::OtherModel { .. }
                | Self::NotRead { .. }
                | Self::TotalSize { .. }
                | Self::StepsDisagree { .. }
                | Self::UnknownDtype { .. }
                | Self::UnsupportedTensor { .. }
                | Self::DuplicateName { .. }
                | Self::Device { .. }
                | Self::NoDevice { .. }
        )
    }

    /// The kind's name in JSON, such as `past-end-of-file`.
    pub fn name(&self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(fields)) => {
                fields.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned()
            }
            _ => String::new(),
        }
    }

    /// This kind as an error about `path`.
    pub fn in_file(self, path: &Path) -> Error {
        Error { path: path.to_owned(), at: None, tensor: None, kind: self }
    }

    /// This kind as an error at byte `offset` of `path`.
    pub fn at_byte(self, path: &Path, offset: u64) -> Error {
        Error { path: path.to_owned(), at: Some(At::Byte(offset)), tensor: None, kind: self }
    }
}

impl Error {
    /// The operating system's refusal to do `doing` with `path`.
    pub fn io(path: &Path, doing: &'static str, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io { doing, message: error.to_string() },
        };
        kind.in_file(path)
    }

    /// The same error, placed.
    #[must_use]
    pub fn at(mut self, at: At) -> Self {
        self.at = Some(at);
        self
    }

    /// The same error, about one tensor.
    #[must_use]
    pub fn for_tensor(mut self, name: &str) -> Self {
        self.tensor = Some(name.to_owned());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display().to_string().escape_debug())?;
        if let Some(at) = &self.at {
            write!(f, ", {at}")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, ", tensor {}", tensor.escape_debug())?;
        }
        write!(f, ": {}; {}", self.kind, self.kind.advice())
    }
}

impl std::error::Error for Error {}
