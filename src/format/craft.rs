//! Archives and pickles written byte by byte, for tests of what they must not get away with.

use std::io::Write as _;

use flate2::write::DeflateEncoder;

/// A member as the test wants it described, true or not.
#[derive(Clone)]
pub struct Record {
    pub name: String,
    pub flags: u16,
    pub method: u16,
    pub data: Vec<u8>,
    pub size: u32,
    pub checksum: Option<u32>,
    pub header: Option<u32>,
    pub zip64: bool,
}

pub fn stored(name: &str, data: &[u8]) -> Record {
    let (name, size) = (name.to_owned(), data.len() as u32);
    Record {
        name,
        flags: 0,
        method: 0,
        data: data.to_vec(),
        size,
        checksum: None,
        header: None,
        zip64: false,
    }
}

pub fn deflated(name: &str, data: &[u8]) -> Record {
    let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).expect("writing to memory");
    let compressed = encoder.finish().expect("writing to memory");
    Record { method: 8, size: data.len() as u32, data: compressed, checksum: Some(0), ..stored(name, &[]) }
}

pub fn crc(data: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(data);
    crc.sum()
}

pub fn zip(records: &[Record]) -> Vec<u8> {
    zip_with_comment(records, b"")
}

/// As `torch.save` writes it: local headers without sizes, and a central directory.
pub fn zip_with_comment(records: &[Record], comment: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for record in records {
        let checksum = record.checksum.unwrap_or_else(|| crc(&record.data));
        let header = record.header.unwrap_or(file.len() as u32);
        let name = record.name.as_bytes();
        file.extend_from_slice(b"PK\x03\x04\0\0");
        file.extend_from_slice(&(record.flags | 0x808).to_le_bytes());
        file.extend_from_slice(&record.method.to_le_bytes());
        file.extend_from_slice(&[0; 16]);
        file.extend_from_slice(&(name.len() as u16).to_le_bytes());
        file.extend_from_slice(&[0; 2]);
        file.extend_from_slice(name);
        file.extend_from_slice(&record.data);

        let compressed = record.data.len() as u32;
        let extra = if record.zip64 {
            [&[1, 0, 16, 0][..], &u64::from(record.size).to_le_bytes(), &u64::from(compressed).to_le_bytes()]
                .concat()
        } else {
            Vec::new()
        };
        let in_extra = |size: u32| if record.zip64 { u32::MAX } else { size };
        directory.extend_from_slice(b"PK\x01\x02\0\0\0\0");
        directory.extend_from_slice(&(record.flags | 0x808).to_le_bytes());
        directory.extend_from_slice(&record.method.to_le_bytes());
        directory.extend_from_slice(&[0; 4]);
        directory.extend_from_slice(&checksum.to_le_bytes());
        directory.extend_from_slice(&in_extra(compressed).to_le_bytes());
        directory.extend_from_slice(&in_extra(record.size).to_le_bytes());
        directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
        directory.extend_from_slice(&(extra.len() as u16).to_le_bytes());
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&header.to_le_bytes());
        directory.extend_from_slice(name);
        directory.extend_from_slice(&extra);
    }
    let start = file.len() as u32;
    file.extend_from_slice(&directory);
    file.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    file.extend_from_slice(&(records.len() as u16).to_le_bytes().repeat(2));
    file.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    file.extend_from_slice(&start.to_le_bytes());
    file.extend_from_slice(&(comment.len() as u16).to_le_bytes());
    file.extend_from_slice(comment);
    file
}

pub fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

pub fn int(value: i64) -> Vec<u8> {
    [&b"\x8a\x08"[..], &value.to_le_bytes()].concat()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &items.concat(), b"t"].concat()
}

pub fn counts(values: &[i64]) -> Vec<u8> {
    tuple(&values.iter().map(|&value| int(value)).collect::<Vec<_>>())
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn call(module: &str, name: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    [global(module, name), tuple(arguments), b"R".to_vec()].concat()
}

pub fn storage(class: &str, key: &str, count: i64) -> Vec<u8> {
    let module = if class == "UntypedStorage" { "torch.storage" } else { "torch" };
    let id = tuple(&[text("storage"), global(module, class), text(key), text("cpu"), int(count)]);
    [id, b"Q".to_vec()].concat()
}

pub fn view(storage: Vec<u8>, offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    let hooks = call("collections", "OrderedDict", &[]);
    let arguments = [storage, int(offset), counts(size), counts(stride), b"\x89".to_vec(), hooks];
    call("torch._utils", "_rebuild_tensor_v2", &arguments)
}

pub fn floats(key: &str, count: i64, offset: i64, size: &[i64], stride: &[i64]) -> Vec<u8> {
    view(storage("FloatStorage", key, count), offset, size, stride)
}

pub fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries = entries.iter().map(|(key, value)| [text(key), value.clone()].concat()).collect::<Vec<_>>();
    [&b"}("[..], &entries.concat(), b"u"].concat()
}

pub fn pickled(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}
