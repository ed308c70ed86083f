//! The opcodes of pickle protocols 0 to 5, and how their arguments are read.
//!
//! The authority is CPython's `Lib/pickletools.py`, whose names are used here.

use crate::error::ErrorKind;

macro_rules! opcodes {
    ($($variant:ident = $byte:literal $name:literal,)*) => {
        /// One instruction of the pickle machine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is its own name")]
        pub enum Opcode { $($variant,)* }

        impl Opcode {
            /// Every opcode, with its byte.
            #[cfg(test)]
            pub const ALL: &[(u8, Opcode)] = &[$(($byte, Opcode::$variant),)*];

            /// The opcode of that byte.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($byte => Some(Opcode::$variant),)*
                    _ => None,
                }
            }

            /// Its name in the pickle documentation.
            pub const fn name(self) -> &'static str {
                match self { $(Opcode::$variant => $name,)* }
            }
        }
    };
}

opcodes! {
    Mark = b'(' "MARK",
    Stop = b'.' "STOP",
    Pop = b'0' "POP",
    PopMark = b'1' "POP_MARK",
    Dup = b'2' "DUP",
    Float = b'F' "FLOAT",
    Int = b'I' "INT",
    BinInt = b'J' "BININT",
    BinInt1 = b'K' "BININT1",
    Long = b'L' "LONG",
    BinInt2 = b'M' "BININT2",
    None = b'N' "NONE",
    PersId = b'P' "PERSID",
    BinPersId = b'Q' "BINPERSID",
    Reduce = b'R' "REDUCE",
    String = b'S' "STRING",
    BinString = b'T' "BINSTRING",
    ShortBinString = b'U' "SHORT_BINSTRING",
    Unicode = b'V' "UNICODE",
    BinUnicode = b'X' "BINUNICODE",
    Append = b'a' "APPEND",
    Build = b'b' "BUILD",
    Global = b'c' "GLOBAL",
    Dict = b'd' "DICT",
    EmptyDict = b'}' "EMPTY_DICT",
    Appends = b'e' "APPENDS",
    Get = b'g' "GET",
    BinGet = b'h' "BINGET",
    Inst = b'i' "INST",
    LongBinGet = b'j' "LONG_BINGET",
    List = b'l' "LIST",
    EmptyList = b']' "EMPTY_LIST",
    Obj = b'o' "OBJ",
    Put = b'p' "PUT",
    BinPut = b'q' "BINPUT",
    LongBinPut = b'r' "LONG_BINPUT",
    SetItem = b's' "SETITEM",
    Tuple = b't' "TUPLE",
    EmptyTuple = b')' "EMPTY_TUPLE",
    SetItems = b'u' "SETITEMS",
    BinFloat = b'G' "BINFLOAT",
    Proto = 0x80 "PROTO",
    NewObj = 0x81 "NEWOBJ",
    Ext1 = 0x82 "EXT1",
    Ext2 = 0x83 "EXT2",
    Ext4 = 0x84 "EXT4",
    Tuple1 = 0x85 "TUPLE1",
    Tuple2 = 0x86 "TUPLE2",
    Tuple3 = 0x87 "TUPLE3",
    NewTrue = 0x88 "NEWTRUE",
    NewFalse = 0x89 "NEWFALSE",
    Long1 = 0x8a "LONG1",
    Long4 = 0x8b "LONG4",
    BinBytes = b'B' "BINBYTES",
    ShortBinBytes = b'C' "SHORT_BINBYTES",
    ShortBinUnicode = 0x8c "SHORT_BINUNICODE",
    BinUnicode8 = 0x8d "BINUNICODE8",
    BinBytes8 = 0x8e "BINBYTES8",
    EmptySet = 0x8f "EMPTY_SET",
    AddItems = 0x90 "ADDITEMS",
    FrozenSet = 0x91 "FROZENSET",
    NewObjEx = 0x92 "NEWOBJ_EX",
    StackGlobal = 0x93 "STACK_GLOBAL",
    Memoize = 0x94 "MEMOIZE",
    Frame = 0x95 "FRAME",
    ByteArray8 = 0x96 "BYTEARRAY8",
    NextBuffer = 0x97 "NEXT_BUFFER",
    ReadOnlyBuffer = 0x98 "READONLY_BUFFER",
}

/// A place in the pickle, and bounded reads from there.
#[derive(Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.at as u64
    }

    /// The next `count` bytes; a length that lies is refused before anything is reserved for it.
    pub fn take(&mut self, count: u64) -> Result<&'a [u8], ErrorKind> {
        let rest = &self.bytes[self.at..];
        let missing = count.saturating_sub(rest.len() as u64);
        if missing > 0 {
            return Err(ErrorKind::PickleTruncated { needed: missing });
        }
        self.at += count as usize;
        Ok(&rest[..count as usize])
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], ErrorKind> {
        let bytes = self.take(N as u64)?;
        Ok(bytes.try_into().expect("take returned as many bytes as were asked for"))
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, ErrorKind> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A little-endian number of 2 bytes.
    pub fn u16(&mut self) -> Result<u16, ErrorKind> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian number of 4 bytes.
    pub fn u32(&mut self) -> Result<u32, ErrorKind> {
        self.array().map(u32::from_le_bytes)
    }

    /// A signed little-endian number of 4 bytes.
    pub fn i32(&mut self) -> Result<i32, ErrorKind> {
        self.array().map(i32::from_le_bytes)
    }

    /// A little-endian number of 8 bytes.
    pub fn u64(&mut self) -> Result<u64, ErrorKind> {
        self.array().map(u64::from_le_bytes)
    }

    /// The bytes up to the next newline, which is skipped.
    pub fn line(&mut self) -> Result<&'a [u8], ErrorKind> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(ErrorKind::PickleTruncated { needed: 1 });
        };
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// Whether `count` bytes follow.
    pub fn has(&self, count: u64) -> Result<(), ErrorKind> {
        match count.saturating_sub((self.bytes.len() - self.at) as u64) {
            0 => Ok(()),
            needed => Err(ErrorKind::PickleTruncated { needed }),
        }
    }
}
