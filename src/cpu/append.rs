//! What the kernels of norm, rotation and append do.
//!
//! First queries, and keys whose rows go somewhere, token by token. Then the cache, slot by slot: any two tokens may
//! name one slot, so a slot is one task's.

use super::Threads;
use super::angles::Angles;
use super::ids::IdList;
use super::norm::{PairChannels, RmsNorm, rotate_values};
use super::positions::TokenPositions;
use super::rotate::rotate_row;
use super::simd::{self, Work};
use crate::call::{CheckedAppend, CheckedCache, CheckedScale, CheckedTensor, Pages, Target};
use crate::{Address, Element, Layout, MAX_HEAD_DIM, RopeSpec, Slots, Stored};

/// One call, checked.
pub(super) struct Appending<'a> {
    pub spec: RopeSpec,
    pub words: &'a [u64],
    pub call: &'a CheckedAppend,
    pub threads: &'a Threads,
}

const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
/// Tasks that share the slots of a cache, at most.
const MAX_TASKS: usize = 64;

impl Appending<'_> {
    /// # Safety
    /// Every row, page and list of the call lies in memory that is valid for it, of the call's element type `T`; what is
    /// written is nobody else's meanwhile.
    pub unsafe fn run<T: Element>(&self) {
        let Self { call, spec, words, threads } = *self;
        if call.is_empty() {
            return;
        }
        // SAFETY: the caller's promise.
        let positions = unsafe { TokenPositions::of(spec, words, &call.positions, call.batch_seq) };
        let heads = Heads::<T> { call, spec, values: std::marker::PhantomData };
        let (heads, positions) = (&heads, &positions);
        let tokens = call.tokens();
        let channels = |i: usize| {
            call.tensors[i].map_or(0, |tensor| {
                let [.., heads, head_dim] = tensor.layout.shape();
                heads * head_dim
            })
        };
        let written = |i: usize| call.tensors[i].is_some_and(|tensor| tensor.target.is_some());
        if written(QUERY) || written(KEY) {
            threads.for_each_range(tokens, channels(QUERY) + channels(KEY), |first, last| {
                simd::dispatch(RowsTask { heads, positions, first, last });
            });
        }
        let Some(cache) = &call.cache else { return };
        let channels = channels(KEY) + channels(VALUE);
        let tasks = (tokens.saturating_mul(channels) >> 16).clamp(1, MAX_TASKS);
        threads.for_each_range(tasks, usize::MAX, |first, last| {
            for task in first..last {
                simd::dispatch(CacheTask { heads, cache, positions, task, tasks });
            }
        });
    }
}

/// The heads of a call, by pointer.
struct Heads<'a, T> {
    call: &'a CheckedAppend,
    spec: RopeSpec,
    values: std::marker::PhantomData<fn() -> T>,
}

/// One head's channels.
type Head<T> = [T; MAX_HEAD_DIM];

fn pointer<T>(address: Address, elements: usize) -> *mut T {
    std::ptr::with_exposed_provenance_mut::<T>(address as usize).wrapping_add(elements)
}

impl<T: Element> Heads<'_, T> {
    /// The head's channels as they are read; how many there are.
    ///
    /// # Safety
    /// As of [`Appending::run`]; nobody writes the row.
    #[inline(always)]
    unsafe fn read(
        &self,
        address: Address,
        layout: &Layout,
        [b, s, h]: [usize; 3],
        to: &mut Head<T>,
    ) {
        let [.., head_dim] = layout.shape();
        let from = pointer::<T>(address, layout.row(b, s, h));
        // SAFETY: the row lies in its buffer, and an array is as long as the longest.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), head_dim) };
    }

    /// Norm and rotation of q or k, rounded once.
    #[inline(always)]
    fn transform(&self, i: usize, tensor: &CheckedTensor, angles: &Angles, head: &mut Head<T>) {
        let [.., head_dim] = tensor.layout.shape();
        let (pairs, pairing) = (self.spec.rotary_dim() / 2, self.spec.pairing());
        let before = tensor.layout.rotary_offset();
        let (cos, sin) = (&angles.cos[..pairs], &angles.sin[..pairs]);
        let head = &mut head[..head_dim];
        let Some(weights) = self.call.norm.weights[i] else {
            return rotate_row(&mut head[before..before + 2 * pairs], pairing, cos, sin);
        };
        let norm = self.call.norm;
        // SAFETY: the checks say that there are as many weights as channels.
        let weights = unsafe { std::slice::from_raw_parts(pointer::<T>(weights, 0), head_dim) };
        let norm = RmsNorm { weights, eps: norm.eps, unit_offset: norm.unit_offset };
        let channels = PairChannels { before, pairs, rest: head_dim / 2 - pairs, pairing };
        let mut values = [0.0; MAX_HEAD_DIM];
        norm.apply(head, &channels, &mut values);
        rotate_values(&mut values[before..before + 2 * pairs], pairing, cos, sin);
        for (element, value) in head.iter_mut().zip(values) {
            *element = T::narrow(value);
        }
    }

    /// # Safety
    /// As of [`Appending::run`]; the row is this task's alone.
    #[inline(always)]
    unsafe fn write(&self, i: usize, target: &Target, [b, s, h]: [usize; 3], head: &Head<T>) {
        let [.., head_dim] = target.layout.shape();
        let row = target.layout.row(b, s, h);
        if target.in_place && self.call.norm.weights[i].is_none() {
            // Nothing else has changed.
            let (first, len) = (target.layout.rotary_offset(), self.spec.rotary_dim());
            let to = pointer::<T>(target.address, row + first);
            // SAFETY: within the row.
            return unsafe {
                std::ptr::copy_nonoverlapping(head[first..].as_ptr(), to, len);
            };
        }
        // SAFETY: the row lies in its buffer.
        unsafe { store(target.stored, target.address, row, &head[..head_dim], target.scale, h) };
    }
}

/// A head's channels from element `at` on, as what is stored there.
///
/// # Safety
/// As many numbers lie there, and scales are valid.
#[inline(always)]
unsafe fn store<T: Element>(
    stored: Stored,
    address: Address,
    at: usize,
    head: &[T],
    scale: CheckedScale,
    h: usize,
) {
    if let Stored::Element(_) = stored {
        // SAFETY: the caller's promise.
        return unsafe {
            std::ptr::copy_nonoverlapping(head.as_ptr(), pointer::<T>(address, at), head.len());
        };
    }
    let scale = match scale {
        CheckedScale::Value(value) => value,
        CheckedScale::Tensor { address, per_head } => {
            let scale = pointer::<f32>(address, if per_head { h } else { 0 });
            // SAFETY: the caller's promise.
            unsafe { scale.read() }
        }
    };
    let inverse = 1.0 / scale;
    // SAFETY: the caller's promise.
    let bytes = unsafe { std::slice::from_raw_parts_mut(pointer::<u8>(address, at), head.len()) };
    for (byte, element) in bytes.iter_mut().zip(head) {
        *byte = stored.narrow(element.widen() * inverse);
    }
}

/// Queries and keys of tokens `first..last`, to where their rows go.
struct RowsTask<'a, T> {
    heads: &'a Heads<'a, T>,
    positions: &'a TokenPositions<'a>,
    first: usize,
    last: usize,
}

impl<T: Element> Work for RowsTask<'_, T> {
    #[inline(always)]
    fn run(self) {
        let call = self.heads.call;
        let [_, seq] = call.batch_seq;
        let (mut angles, mut head) = (Angles::ZERO, [T::default(); MAX_HEAD_DIM]);
        for token in self.first..self.last {
            self.positions.turn(&mut angles, token);
            for (i, tensor) in call.tensors[..VALUE].iter().enumerate() {
                let Some((tensor, target)) = tensor.as_ref().and_then(|t| Some((t, t.target?)))
                else {
                    continue;
                };
                for h in 0..tensor.layout.shape()[2] {
                    let at = [token / seq, token % seq, h];
                    // SAFETY: `Appending::run`'s caller promised that the row is valid, and this task's alone.
                    unsafe { self.heads.read(tensor.source, &tensor.layout, at, &mut head) };
                    self.heads.transform(i, tensor, &angles, &mut head);
                    // SAFETY: as above.
                    unsafe { self.heads.write(i, &target, at, &head) };
                }
            }
        }
    }
}

/// Keys and values of the tokens whose slots are `task` modulo `tasks`.
struct CacheTask<'a, T> {
    heads: &'a Heads<'a, T>,
    cache: &'a CheckedCache,
    positions: &'a TokenPositions<'a>,
    task: usize,
    tasks: usize,
}

impl<T: Element> CacheTask<'_, T> {
    /// Where a token goes, if anywhere.
    #[inline(always)]
    fn slot(&self, ids: &IdList, token: usize, page_size: usize, count: usize) -> Option<usize> {
        let slot = match &self.cache.slots.slots {
            Slots::Ids(given) => {
                if token >= given.len {
                    return None;
                }
                ids.get(token)
            }
            Slots::PageTable { width, row_stride, .. } => {
                let position = usize::try_from(self.positions.position(token)).ok()?;
                let page = position / page_size;
                if page >= *width {
                    return None;
                }
                let page = ids.get(self.positions.sequence(token) * row_stride + page);
                // A page beyond those that there are must not wrap to one of them.
                let page = i64::from(i32::try_from(page).ok()?);
                page * page_size as i64 + (position % page_size) as i64
            }
        };
        let slot = usize::try_from(slot).ok()?;
        (slot >= self.cache.slots.reserved && slot < count).then_some(slot)
    }

    /// # Safety
    /// As of [`Appending::run`]; the slot is this task's alone.
    #[inline(always)]
    unsafe fn append(
        &self,
        i: usize,
        pages: &Pages,
        at: [usize; 2],
        slot: [usize; 2],
        angles: &Angles,
    ) {
        let Some(tensor) = &self.heads.call.tensors[i] else { return };
        let mut head = [T::default(); MAX_HEAD_DIM];
        let [.., heads, head_dim] = tensor.layout.shape();
        for h in 0..heads {
            let row = [at[0], at[1], h];
            // Rows that go somewhere are there by now, as they are stored.
            let (from, layout) = tensor
                .target
                .as_ref()
                .map_or((tensor.source, &tensor.layout), |target| (target.address, &target.layout));
            // SAFETY: the caller's promise.
            unsafe { self.heads.read(from, layout, row, &mut head) };
            if i == KEY && tensor.target.is_none() {
                self.heads.transform(i, tensor, angles, &mut head);
            }
            let Pages { address, layout, stored, scale } = *pages;
            let at = layout.0.row(slot[0], slot[1], h);
            // SAFETY: the caller's promise; the slot is one of the cache's.
            unsafe { store(stored, address, at, &head[..head_dim], scale, h) };
        }
    }
}

impl<T: Element> Work for CacheTask<'_, T> {
    #[inline(always)]
    fn run(self) {
        let call = self.heads.call;
        let [_, seq] = call.batch_seq;
        let Some(pages) = self.cache.pages.iter().flatten().next() else { return };
        let [number, page_size, ..] = pages.layout.shape();
        // SAFETY: `Appending::run`'s caller promised it.
        let ids = unsafe { IdList::of(self.cache.slots.buffer()) };
        let turns = call.tensors[KEY].is_some_and(|k| k.target.is_none());
        let mut angles = Angles::ZERO;
        for token in 0..call.tokens() {
            let Some(slot) = self.slot(&ids, token, page_size, number * page_size) else {
                continue;
            };
            if slot % self.tasks != self.task {
                continue;
            }
            if turns {
                self.positions.turn(&mut angles, token);
            }
            for (i, pages) in self.cache.pages.iter().enumerate() {
                let Some(pages) = pages else { continue };
                let (at, slot) = ([token / seq, token % seq], [slot / page_size, slot % page_size]);
                // SAFETY: `Appending::run`'s caller promised that rows and pages are valid, and no other task has
                // the slot.
                unsafe { self.append(i + KEY, pages, at, slot, &angles) };
            }
        }
    }
}
