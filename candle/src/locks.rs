//! The locks of several tensors' storages, held together: each once, in the order of their addresses, as candle-core
//! 0.11.1 takes them, so that no two threads wait for one another. What is written is locked by `InplaceOp1`, candle's
//! public way to an exclusive lock: never written under a shared one.

use std::cell::RefCell;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

use crate::memory::{Span, Stream};

/// A tensor whose memory an operation uses.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pub tensor: &'a Tensor,
    writes: bool,
    /// The address of the storage behind its lock, which never moves.
    pub key: usize,
}

impl<'a> Access<'a> {
    pub fn read(tensor: &'a Tensor) -> Self {
        Self { tensor, writes: false, key: key(tensor) }
    }

    /// Of a tensor without elements nothing is written, and candle would refuse to.
    pub fn write(tensor: &'a Tensor) -> Self {
        Self { writes: tensor.elem_count() > 0, ..Self::read(tensor) }
    }
}

/// The guard is dropped before another tensor's is asked for: two threads that hold one each would wait.
fn key(tensor: &Tensor) -> usize {
    let (storage, _) = tensor.storage_and_layout();
    (&raw const *storage).addr()
}

/// The storages that are held, of all tensors that were asked for.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a>(Option<&'a Link<'a>>);

/// One of them, and those before it.
struct Link<'a> {
    key: usize,
    span: Span<'a>,
    before: Held<'a>,
}

impl<'a> Held<'a> {
    /// The memory of one of the tensors.
    pub fn span(self, access: Access) -> &'a Span<'a> {
        let mut link = self.0;
        loop {
            let Link { key, span, before } = link.expect("the storages of all tensors are held");
            if *key == access.key {
                return span;
            }
            link = before.0;
        }
    }
}

/// What is done with the storages of all tensors held.
type Body<'b> = dyn FnMut(Held) -> Result<()> + 'b;

/// Holds the storage of each tensor, those of `Access::write` exclusively, and calls `body` once.
pub(crate) fn with_all(accesses: &[Access], stream: &Stream, body: &mut Body) -> Result<()> {
    let mut order: Vec<Access> = Vec::new();
    for access in accesses {
        match order.iter_mut().find(|known| known.key == access.key) {
            Some(known) => known.writes |= access.writes,
            None => order.push(*access),
        }
    }
    order.sort_by_key(|access| access.key);
    hold(&order, stream, Held(None), body)
}

fn hold<'a>(rest: &[Access], stream: &Stream, before: Held<'a>, body: &mut Body) -> Result<()> {
    let Some((access, rest)) = rest.split_first() else {
        return body(before);
    };
    let key = access.key;
    if !access.writes {
        let (storage, _) = access.tensor.storage_and_layout();
        let span = Span::read(&storage, stream)?;
        return hold(rest, stream, Held(Some(&Link { key, span, before })), body);
    }
    access.tensor.inplace_op1(&Exclusive { key, rest, stream, before, body: RefCell::new(body) })
}

/// An operation that holds its tensor's storage exclusively while the other ones are taken.
struct Exclusive<'a, 'b, 'c> {
    key: usize,
    rest: &'a [Access<'a>],
    stream: &'a Stream,
    before: Held<'a>,
    body: RefCell<&'b mut Body<'c>>,
}

impl Exclusive<'_, '_, '_> {
    fn go_on(&self, span: Span) -> Result<()> {
        let link = Link { key: self.key, span, before: self.before };
        hold(self.rest, self.stream, Held(Some(&link)), &mut **self.body.borrow_mut())
    }
}

impl InplaceOp1 for Exclusive<'_, '_, '_> {
    fn name(&self) -> &'static str {
        "condensed-rope"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        self.go_on(Span::write(storage)?)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, _: &Layout) -> Result<()> {
        self.go_on(Span::write_device(storage, self.stream)?)
    }
}
