use crate::{Dtype, Error, IndexType, Layout, Result};

/// An address in a backend's memory: a `CUdeviceptr`, or that of a host pointer.
pub type Address = u64;

/// Memory by address, with or without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    pub(crate) address: Address,
    /// Elements, where it is known.
    pub(crate) len: Option<usize>,
}

impl RawBuffer {
    /// Memory that starts at `address` and holds `len` elements.
    pub const fn new(address: Address, len: usize) -> Self {
        Self { address, len: Some(len) }
    }

    /// Memory that starts at `address`, as long as it needs to be: nothing checks where it ends.
    pub const fn unbounded(address: Address) -> Self {
        Self { address, len: None }
    }

    /// Elements of `size` bytes that the checks may take it to have.
    fn limit(&self, size: usize) -> usize {
        self.len.unwrap_or(isize::MAX as usize / size)
    }
}

impl From<Address> for RawBuffer {
    fn from(address: Address) -> Self {
        Self::unbounded(address)
    }
}

/// Heads of query or key by address: where they are read, and where they go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RawOperand {
    pub(crate) dtype: Dtype,
    pub(crate) target: RawBuffer,
    pub(crate) layout: Layout,
    /// Read from here instead of from the target.
    pub(crate) source: Option<(RawBuffer, Layout)>,
}

impl RawOperand {
    /// Rotates where the heads lie. The layout's offset counts from the buffer's address.
    pub fn in_place(dtype: Dtype, buffer: impl Into<RawBuffer>, layout: Layout) -> Self {
        Self { dtype, target: buffer.into(), layout, source: None }
    }

    /// Reads `source` and writes `target`, which ends up with the channels that do not rotate too. The
    /// layouts may differ in strides and offset, not in shape or rotated channels. A source that *is* its
    /// target, by address and layout, is in place.
    pub fn out_of_place(
        dtype: Dtype,
        source: impl Into<RawBuffer>,
        from: Layout,
        target: impl Into<RawBuffer>,
        layout: Layout,
    ) -> Self {
        let source = source.into();
        let target = target.into();
        let own = source.address == target.address && from == layout;
        // The shorter of two lengths that are given for one buffer holds.
        let len = match (source.len, target.len) {
            (Some(a), Some(b)) if own => Some(a.min(b)),
            (Some(a), None) if own => Some(a),
            _ => target.len,
        };
        let target = RawBuffer { len, ..target };
        Self { dtype, target, layout, source: (!own).then_some((source, from)) }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Where the heads go.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Shapes, ranges, bounds, alignment and rows, of the target and of the source.
    pub(crate) fn check(&self, names: Names, rotary_dim: usize) -> Result<()> {
        check_view(names.target, self.dtype.size(), &self.target, &self.layout, rotary_dim)?;
        self.layout.check_rows_disjoint(names.target)?;
        let Some((source, from)) = &self.source else { return Ok(()) };
        let tensor = names.source;
        check_view(tensor, self.dtype.size(), source, from, rotary_dim)?;
        if from.shape() != self.layout.shape() {
            let (expected, given) = (self.layout.shape(), from.shape());
            return Err(Error::Shape { tensor, expected, given });
        }
        if from.rotary_offset() != self.layout.rotary_offset() {
            let (expected, given) = (self.layout.rotary_offset(), from.rotary_offset());
            return Err(Error::RotaryOffset { tensor, expected, given });
        }
        Ok(())
    }

    /// What is written shares nothing with `other`, a tensor of the same element type. Addresses are
    /// aligned and ranges checked.
    pub(crate) fn disjoint(&self, other: &RawBuffer, layout: &Layout) -> bool {
        let size = self.dtype.size();
        disjoint(size, (self.target.address, &self.layout), (other.address, layout))
    }
}

/// Two views of elements of `size` bytes share none.
pub(crate) fn disjoint(size: usize, a: (Address, &Layout), b: (Address, &Layout)) -> bool {
    // Count both layouts' elements from the lower address, which both are whole elements from.
    let base = a.0.min(b.0);
    let moved = |(address, layout): (Address, &Layout)| {
        let elements = usize::try_from((address - base) / size as u64).ok()?;
        Some(layout.at(layout.offset().checked_add(elements)?))
    };
    match (moved(a), moved(b)) {
        (Some(a), Some(b)) => a.disjoint(&b),
        // The end of the address space lies between them.
        _ => true,
    }
}

/// What an operand's tensors are called in errors.
#[derive(Clone, Copy)]
pub(crate) struct Names {
    pub target: &'static str,
    pub source: &'static str,
}

impl Names {
    pub const Q: Self = Self { target: "q", source: "q source" };
    pub const K: Self = Self { target: "k", source: "k source" };
}

pub(crate) fn check_view(
    tensor: &'static str,
    size: usize,
    buffer: &RawBuffer,
    layout: &Layout,
    rotary_dim: usize,
) -> Result<()> {
    let needed = layout.check(tensor, buffer.limit(size), rotary_dim)?;
    // The layout's end lies within `isize::MAX` bytes, or within a slice.
    check_address(tensor, buffer.address, size, needed.saturating_mul(size))
}

/// Memory of so many bytes from `address` on can be there, and elements in it are aligned.
pub(crate) fn check_address(
    tensor: &'static str,
    address: Address,
    alignment: usize,
    bytes: usize,
) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    if address == 0 {
        return Err(Error::Null { tensor });
    }
    if !address.is_multiple_of(alignment as u64) {
        return Err(Error::Alignment { tensor, expected: alignment, given: address });
    }
    // One past the end is still an address.
    if address.checked_add(bytes as u64).is_none() {
        let limit = (u64::MAX - address) as usize;
        return Err(Error::TooLarge { tensor, what: "bytes from its address on", limit });
    }
    Ok(())
}

/// Position ids, starts, `cu_seqlens` or choices of sets by address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawIds {
    pub(crate) address: Address,
    pub(crate) len: usize,
    pub(crate) dtype: IndexType,
}

impl RawIds {
    /// `len` values from `address` on.
    pub const fn new(dtype: IndexType, address: Address, len: usize) -> Self {
        Self { address, len, dtype }
    }

    /// As many of the same type, elsewhere.
    pub const fn at(self, address: Address) -> Self {
        Self { address, ..self }
    }

    pub(crate) fn check(&self, what: &'static str) -> Result<()> {
        let size = self.dtype.size();
        check_address(what, self.address, size, self.len.saturating_mul(size))
    }
}
