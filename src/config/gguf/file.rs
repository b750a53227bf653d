//! The file's format: a header, keys with values, and where tensors lie. All little-endian.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use crate::config::error::{ConfigError, Result};

/// What a key holds. Whole numbers are exact up to 2^53.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Flag(bool),
    Text(String),
    /// Numbers, or flags as 0 and 1.
    Numbers(Vec<f64>),
    /// Texts, lists of lists, or a list too long to be about layers.
    Other,
}

/// Metadata, and tensors of factors on frequencies.
pub(super) struct File {
    pub metadata: BTreeMap<String, Value>,
    pub factors: BTreeMap<String, Vec<f32>>,
}

/// Names of tensors that hold a factor a pair.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(super) const LONG: &str = "rope_factors_long.weight";
pub(super) const SHORT: &str = "rope_factors_short.weight";

const MAGIC: [u8; 4] = *b"GGUF";
/// Far more than any file has, so that a malformed one cannot ask for memory without end.
const MAX_ENTRIES: u64 = 1 << 20;
const MAX_TEXT: u64 = 1 << 16;
const MAX_LIST: u64 = 1 << 12;
const MAX_DEPTH: usize = 4;

impl File {
    pub fn read(file: impl Read + Seek) -> Result<Self> {
        let mut bytes = Bytes(io::BufReader::new(file));
        if bytes.array()? != MAGIC {
            return Err(malformed("the first four bytes must be \"GGUF\""));
        }
        let version = bytes.u32()?;
        if !(2..=3).contains(&version) {
            let swapped = (2..=3).contains(&version.swap_bytes());
            let order = if swapped { ", of big-endian order" } else { "" };
            let reason = format!("version must be 2 or 3, little-endian: given {version}{order}");
            return Err(ConfigError::Gguf { reason });
        }
        let (tensors, keys) = (bytes.count()?, bytes.count()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = bytes.text()?;
            let kind = bytes.u32()?;
            let value = bytes.value(kind, 0)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(ConfigError::Gguf { reason: format!("{key} is there twice") });
            }
        }
        let mut found = Vec::new();
        for _ in 0..tensors {
            found.extend(bytes.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Number(n)) if *n >= 8.0 && n % 8.0 == 0.0 && *n <= 1e6 => *n as u64,
            Some(_) => return Err(malformed("general.alignment must be a multiple of 8")),
        };
        let data = bytes.0.stream_position().map_err(failed)?.next_multiple_of(alignment);
        let mut factors = BTreeMap::new();
        for Tensor { name, len, offset } in found {
            let start = data.checked_add(offset).ok_or_else(cut)?;
            bytes.0.seek(SeekFrom::Start(start)).map_err(failed)?;
            let values = (0..len).map(|_| Ok(f32::from_le_bytes(bytes.array()?)));
            factors.insert(name, values.collect::<Result<_>>()?);
        }
        Ok(Self { metadata, factors })
    }
}

/// A tensor of factors: 32-bit floats.
struct Tensor {
    name: String,
    len: usize,
    /// From the start of the data.
    offset: u64,
}

struct Bytes<R>(io::BufReader<R>);

impl<R: Read + Seek> Bytes<R> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of keys or tensors.
    fn count(&mut self) -> Result<u64> {
        let count = self.u64()?;
        if count <= MAX_ENTRIES {
            return Ok(count);
        }
        let reason = format!("at most {MAX_ENTRIES} keys and tensors: given {count}");
        Err(ConfigError::Gguf { reason })
    }

    fn text(&mut self) -> Result<String> {
        let len = self.u64()?;
        if len > MAX_TEXT {
            return Err(malformed("a key or a name of more than 65536 bytes"));
        }
        let mut bytes = vec![0; len as usize];
        self.0.read_exact(&mut bytes).map_err(failed)?;
        String::from_utf8(bytes).map_err(|_| malformed("a text that is not UTF-8"))
    }

    /// So many bytes are there, and nobody asks for them.
    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink()).map_err(failed)?;
        if skipped == bytes { Ok(()) } else { Err(cut()) }
    }

    /// `kind` is the specification's number of a type.
    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Number(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Number(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Number(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Number(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Number(self.u32()?.into()),
            5 => Value::Number(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array()?).into()),
            7 => match self.array()? {
                [byte @ (0 | 1)] => Value::Flag(byte == 1),
                [_] => return Err(malformed("a flag that is neither 0 nor 1")),
            },
            8 => {
                let len = self.u64()?;
                if len > MAX_TEXT {
                    self.skip(len)?;
                    return Ok(Value::Other);
                }
                let mut bytes = vec![0; len as usize];
                self.0.read_exact(&mut bytes).map_err(failed)?;
                String::from_utf8(bytes).map_or(Value::Other, Value::Text)
            }
            9 => self.list(depth)?,
            10 => Value::Number(self.u64()? as f64),
            11 => Value::Number(i64::from_le_bytes(self.array()?) as f64),
            12 => Value::Number(f64::from_le_bytes(self.array()?)),
            kind => {
                let reason = format!("types of values are 0 to 12: given {kind}");
                return Err(ConfigError::Gguf { reason });
            }
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value> {
        if depth == MAX_DEPTH {
            return Err(malformed("lists within lists more than four deep"));
        }
        let (kind, len) = (self.u32()?, self.u64()?);
        let mut numbers = (len <= MAX_LIST).then(Vec::new);
        for _ in 0..len {
            match (self.value(kind, depth + 1)?, &mut numbers) {
                (Value::Number(number), Some(numbers)) => numbers.push(number),
                (Value::Flag(flag), Some(numbers)) => numbers.push(flag.into()),
                _ => numbers = None,
            }
        }
        Ok(numbers.map_or(Value::Other, Value::Numbers))
    }

    /// Where a tensor lies, if it is one of factors.
    fn tensor(&mut self) -> Result<Option<Tensor>> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(malformed("a tensor of more than four dimensions"));
        }
        let mut elements = 1u64;
        for _ in 0..dimensions {
            elements = elements.saturating_mul(self.u64()?);
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        if ![ROPE_FREQS, LONG, SHORT].contains(&name.as_str()) {
            return Ok(None);
        }
        let len = elements as usize;
        if kind != 0 || elements > (crate::MAX_HEAD_DIM / 2) as u64 {
            let reason = format!("{name} must be of at most 512 32-bit floats");
            return Err(ConfigError::Gguf { reason });
        }
        Ok(Some(Tensor { name, len, offset }))
    }
}

fn malformed(reason: &str) -> ConfigError {
    ConfigError::Gguf { reason: reason.to_owned() }
}

fn cut() -> ConfigError {
    malformed("the file ends too early")
}

fn failed(error: io::Error) -> ConfigError {
    match error.kind() {
        ErrorKind::UnexpectedEof => cut(),
        _ => ConfigError::Gguf { reason: error.to_string() },
    }
}
