use crate::{Error, Layout, Result};

/// The heads of a query or key tensor: where they are read, and where they go.
///
/// `M` is a backend's mutable buffer and `S` its shared one: see
/// [`cpu::Heads`](crate::cpu::Heads) and `cuda::Heads`, which have the
/// constructors.
#[derive(Debug)]
pub struct Heads<S, M> {
    /// Read from here instead of from the target.
    pub(crate) source: Option<(S, Layout)>,
    pub(crate) target: M,
    pub(crate) layout: Layout,
}

/// What the checks need to know of a tensor: its layouts, and how long its buffers are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub name: &'static str,
    pub source_name: &'static str,
    pub layout: Layout,
    pub len: usize,
    pub source: Option<(Layout, usize)>,
}

impl Extent {
    pub const fn q(layout: Layout, len: usize, source: Option<(Layout, usize)>) -> Self {
        Self { name: "q", source_name: "q source", layout, len, source }
    }

    pub const fn k(layout: Layout, len: usize, source: Option<(Layout, usize)>) -> Self {
        Self { name: "k", source_name: "k source", layout, len, source }
    }

    fn check(&self, rotary_dim: usize) -> Result<()> {
        self.layout.check(self.name, self.len, rotary_dim)?;
        self.layout.check_rows_disjoint(self.name)?;
        let Some((source, len)) = self.source else { return Ok(()) };
        let tensor = self.source_name;
        source.check(tensor, len, rotary_dim)?;
        if source.shape() != self.layout.shape() {
            let (expected, given) = (self.layout.shape(), source.shape());
            return Err(Error::Shape { tensor, expected, given });
        }
        if source.rotary_offset != self.layout.rotary_offset {
            let (expected, given) = (self.layout.rotary_offset, source.rotary_offset);
            return Err(Error::RotaryOffset { tensor, expected, given });
        }
        Ok(())
    }
}

/// Every check of shapes, strides and ranges that backends share. Whether q and k share memory is
/// the caller's to know: borrows rule it out, or [`check_packed`] does.
pub(crate) fn check(q: &Extent, k: Option<&Extent>, rotary_dim: usize) -> Result<()> {
    q.check(rotary_dim)?;
    let Some(k) = k else { return Ok(()) };
    k.check(rotary_dim)?;
    let [expected, given] = [q, k].map(|x| [x.layout.batch, x.layout.seq]);
    if expected != given {
        return Err(Error::Tokens { tensor: k.name, expected, given });
    }
    Ok(())
}

/// q and k are views of one buffer of `len` elements and share none of them.
pub(crate) fn check_packed(q: &Extent, k: &Extent, rotary_dim: usize) -> Result<()> {
    check(q, Some(k), rotary_dim)?;
    if q.layout.disjoint(&k.layout) {
        Ok(())
    } else {
        Err(Error::OverlappingTensors { tensors: [q.name, k.name] })
    }
}

/// The slices of a cos/sin table hold the same whole number of rows.
pub fn check_table(cos: usize, sin: usize, rotary_dim: usize) -> Result<usize> {
    let rows = cos / rotary_dim;
    if !cos.is_multiple_of(rotary_dim) {
        return Err(Error::OutOfBounds {
            tensor: "cos",
            needed: (rows + 1) * rotary_dim,
            given: cos,
        });
    }
    if sin != cos {
        return Err(Error::OutOfBounds { tensor: "sin", needed: cos, given: sin });
    }
    Ok(rows)
}
