//! What is written in a fat binary: for which devices and drivers its images are.
//!
//! NVIDIA does not document the format. This is what `fatbinary` and nvFatbin of CUDA 12.4 to 13.0 write: a header of 16
//! bytes, then an entry an image, of a header and its data.

use std::fmt;

const MAGIC: u32 = 0xba55_ed50;
const ELF: u16 = 2;
const PTX: u16 = 1;
/// How an image is compressed: with LZ4, which drivers of every CUDA 12 read; with zstd, since 12.4.
const LZ4: u64 = 0x2000;
const ZSTD: u64 = 0x8000;

#[derive(Debug, PartialEq)]
pub struct Image {
    pub is_ptx: bool,
    /// Of machine code the version of NVIDIA's ELF, of PTX that of the language.
    pub version: (u16, u16),
    /// 90 for compute capability 9.0.
    pub machine: u32,
    pub bytes: u64,
    pub compression: &'static str,
}

impl Image {
    /// The oldest CUDA release whose drivers load it.
    pub fn oldest_driver(&self) -> Option<(u32, u32)> {
        let by_version = match (self.is_ptx, self.version) {
            // Machine code runs by minor-version compatibility; the newer ELF came with Blackwell.
            (false, (1, 7)) => (12, 0),
            (false, (1, 8)) if self.machine >= 100 => (12, 8),
            // What a PTX version came with.
            (true, (8, minor @ 0..=8)) => (12, minor.into()),
            (true, (9, minor)) => (13, minor.into()),
            _ => return None,
        };
        Some(if self.compression == "zstd" { by_version.max((12, 4)) } else { by_version })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.version;
        let (what, device) = if self.is_ptx { ("PTX", "compute") } else { ("ELF", "sm") };
        let device = format!("{device}_{}", self.machine);
        let driver = self.oldest_driver().map_or("unknown".to_owned(), |(a, b)| format!("{a}.{b}"));
        let Self { bytes, compression, .. } = self;
        write!(f, "{device:<12}{what} {major}.{minor}{bytes:>12}  {compression:<12}{driver}")
    }
}

/// The images of a fat binary, in order.
pub fn images(fat_binary: &[u8]) -> Result<Vec<Image>, String> {
    let word = |at: usize, bytes: usize| -> Result<u64, String> {
        let word = fat_binary.get(at..at + bytes).ok_or("a fat binary ends early")?;
        Ok(word.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    if word(0, 4)? != u64::from(MAGIC) {
        return Err("not a fat binary".to_owned());
    }
    let (mut at, end) = (word(6, 2)? as usize, word(6, 2)? + word(8, 8)?);
    if end != fat_binary.len() as u64 {
        return Err(format!("a fat binary of {end} bytes: given {}", fat_binary.len()));
    }
    let mut images = Vec::new();
    while at < fat_binary.len() {
        let (kind, header, bytes) = (word(at, 2)? as u16, word(at + 4, 4)?, word(at + 8, 8)?);
        if ![PTX, ELF].contains(&kind) || header < 48 {
            return Err(format!("an image of kind {kind} with a header of {header} bytes"));
        }
        let flags = word(at + 40, 8)?;
        let compression = match flags & (LZ4 | ZSTD) {
            0 => "none",
            LZ4 => "LZ4",
            ZSTD => "zstd",
            _ => return Err(format!("flags {flags:#x}")),
        };
        images.push(Image {
            is_ptx: kind == PTX,
            version: (word(at + 26, 2)? as u16, word(at + 24, 2)? as u16),
            machine: word(at + 28, 4)? as u32,
            bytes,
            compression,
        });
        at = usize::try_from(header + bytes)
            .ok()
            .and_then(|n| at.checked_add(n))
            .ok_or("too long")?;
    }
    if images.is_empty() { Err("a fat binary without images".to_owned()) } else { Ok(images) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fat_binary(entries: &[(u16, (u16, u16), u32, u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (kind, version, machine, flags) in entries {
            let mut entry = vec![0; 64 + 8];
            entry[0..2].copy_from_slice(&kind.to_le_bytes());
            entry[4..8].copy_from_slice(&64u32.to_le_bytes());
            entry[8..16].copy_from_slice(&8u64.to_le_bytes());
            entry[24..26].copy_from_slice(&version.1.to_le_bytes());
            entry[26..28].copy_from_slice(&version.0.to_le_bytes());
            entry[28..32].copy_from_slice(&machine.to_le_bytes());
            entry[40..48].copy_from_slice(&flags.to_le_bytes());
            body.extend(entry);
        }
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend([1, 0, 16, 0]);
        file.extend((body.len() as u64).to_le_bytes());
        file.extend(body);
        file
    }

    #[test]
    fn drivers_follow_from_versions_and_compression() {
        let file = fat_binary(&[
            (ELF, (1, 7), 90, 0x2011),
            (ELF, (1, 7), 90, 0x8011),
            (ELF, (1, 8), 100, 0x0100_2011),
            (ELF, (1, 8), 90, 0x11),
            (PTX, (8, 4), 90, 0x2011),
            (PTX, (9, 0), 75, 0x8011),
        ]);
        let drivers: Vec<_> =
            images(&file).expect("a fat binary").iter().map(Image::oldest_driver).collect();
        let expected =
            [Some((12, 0)), Some((12, 4)), Some((12, 8)), None, Some((12, 4)), Some((13, 0))];
        assert_eq!(drivers, expected);
    }

    #[test]
    fn what_is_none_is_refused() {
        let file = fat_binary(&[(ELF, (1, 7), 90, 0)]);
        for len in 0..file.len() {
            assert!(images(&file[..len]).is_err(), "{len} bytes");
        }
        assert!(images(&fat_binary(&[])).is_err());
        assert!(images(&fat_binary(&[(3, (1, 7), 90, 0)])).is_err());
        assert!(images(&fat_binary(&[(ELF, (1, 7), 90, 0xa000)])).is_err());
    }
}
