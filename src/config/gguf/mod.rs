//! GGUF files: metadata and the small tensors that describe ropes, by the specification of ggml-org/ggml
//! (`docs/gguf.md`), versions 2 and 3.

mod architectures;
mod file;
mod reader;

use std::io::{Read, Seek};

use super::error::Result;
use super::{Config, Explicit};

/// Reads a GGUF file up to its tensors, and those of them that hold factors on frequencies.
pub(super) fn read(file: impl Read + Seek, explicit: Explicit) -> Result<Config> {
    reader::read(&file::File::read(file)?, explicit)
}
