//! Rotating, on the GPU or the CPU, with the same bits.

use condensed_rope::hf::Layer;
use condensed_rope::{Element, Layout, Pairing, Positions, cpu};

use crate::files::{self, Tensor, Values};
use crate::{Backend, Order, Result, Rotate, model};

/// A call, with everything but the element type.
pub struct Call<'a> {
    pub layer: &'a Layer,
    pub pairing: Pairing,
    pub inverse: bool,
    pub layouts: [Layout; 2],
    pub ids: &'a Ids,
}

/// Position ids as the call gives them.
pub enum Ids {
    FromZero,
    Each(Vec<i64>),
    Shared(Vec<i64>),
    Axes(Vec<i64>),
}

pub fn rotate(arguments: &Rotate) -> Result<()> {
    let mut layer = model::layer(&arguments.model)?;
    let path = arguments.input.as_ref().ok_or("--input is needed")?;
    let files::Input { mut q, mut k, positions } = files::read(path)?;
    let q_layout = layout("q", &q, arguments.layout, &layer)?;
    let k_layout = match &k {
        Some(k) => layout("k", k, arguments.layout, &layer)?,
        None => q_layout,
    };
    let [batch, seq, ..] = q_layout.shape();
    let ids = ids(positions, batch, seq, &layer)?;
    // Dynamic scaling and LongRoPE look at the longest sequence.
    let length = match &ids {
        Ids::FromZero => seq,
        Ids::Each(ids) | Ids::Shared(ids) | Ids::Axes(ids) => {
            ids.iter().max().map_or(0, |&last| usize::try_from(last.saturating_add(1)).unwrap_or(0))
        }
    };
    layer.scaled.set_length(length);

    let call = Call {
        layer: &layer,
        pairing: pairing(&layer),
        inverse: arguments.inverse,
        layouts: [q_layout, k_layout],
        ids: &ids,
    };
    let (values, others) = (&mut q.values, k.as_mut().map(|k| &mut k.values));
    let on = match (values, others) {
        (Values::F32(q), None) => run(&call, arguments.backend, q, None),
        (Values::F16(q), None) => run(&call, arguments.backend, q, None),
        (Values::BF16(q), None) => run(&call, arguments.backend, q, None),
        (Values::F32(q), Some(Values::F32(k))) => run(&call, arguments.backend, q, Some(k)),
        (Values::F16(q), Some(Values::F16(k))) => run(&call, arguments.backend, q, Some(k)),
        (Values::BF16(q), Some(Values::BF16(k))) => run(&call, arguments.backend, q, Some(k)),
        _ => Err("q and k must be of one element type".into()),
    }?;
    let tensors: Vec<(&str, &Tensor)> = [("q", Some(&q)), ("k", k.as_ref())]
        .into_iter()
        .filter_map(|(name, tensor)| Some((name, tensor?)))
        .collect();
    files::write(&arguments.output, &tensors)?;
    for (name, tensor) in &tensors {
        println!("{name} {:?} {} rotated on {on}", tensor.shape, tensor.dtype().name());
    }
    Ok(())
}

pub fn cos_sin(arguments: &Rotate, rows: usize) -> Result<()> {
    let mut layer = model::layer(&arguments.model)?;
    layer.scaled.set_length(rows);
    let dim = layer.rotary_dim;
    let len = rows.checked_mul(dim).filter(|&len| len < 1 << 40);
    let len = len.ok_or_else(|| format!("--cos-sin {rows} is too large"))?;
    let mut tables = [vec![0f32; len], vec![0f32; len]];
    let [cos, sin] = &mut tables;
    let frequencies = layer.scaled.frequencies();
    let on = match on_gpu(arguments.backend)? {
        #[cfg(feature = "cuda")]
        Some(context) => {
            let stream = context.default_stream();
            let rope = condensed_rope::cuda::Rope::new(&context, frequencies, pairing(&layer))?;
            let rope = if arguments.inverse { rope.inverse() } else { rope };
            if rows > 0 {
                let (mut on_cos, mut on_sin) =
                    (stream.clone_htod(&*cos)?, stream.clone_htod(&*sin)?);
                rope.cos_sin(&stream, 0, &mut on_cos, &mut on_sin)?;
                stream.memcpy_dtoh(&on_cos, cos)?;
                stream.memcpy_dtoh(&on_sin, sin)?;
                stream.synchronize()?;
            }
            context.name()?
        }
        _ => {
            let rope = cpu::Rope::new(frequencies, pairing(&layer));
            let rope = if arguments.inverse { rope.inverse() } else { rope };
            rope.cos_sin(0, cos, sin)?;
            "the CPU".to_owned()
        }
    };
    let [cos, sin] =
        tables.map(|values| Tensor { shape: vec![1, 1, rows, dim], values: Values::F32(values) });
    files::write(&arguments.output, &[("cos", &cos), ("sin", &sin)])?;
    println!("cos and sin {:?} f32 made on {on}", cos.shape);
    Ok(())
}

fn pairing(layer: &Layer) -> Pairing {
    layer.pairing.unwrap_or_else(|| {
        eprintln!("note: the model type does not say how channels pair; taken as half-split");
        Pairing::HalfSplit
    })
}

fn layout(name: &str, tensor: &Tensor, order: Option<Order>, layer: &Layer) -> Result<Layout> {
    let order = order.unwrap_or(if tensor.shape.len() == 4 { Order::Bshd } else { Order::Thd });
    let layout = match (order, tensor.shape.as_slice()) {
        (Order::Thd, &[tokens, heads, dim]) => Layout::thd(tokens, heads, dim),
        (Order::Bshd, &[batch, seq, heads, dim]) => Layout::bshd(batch, seq, heads, dim),
        (Order::Bhsd, &[batch, heads, seq, dim]) => Layout::bhsd(batch, heads, seq, dim),
        (order, shape) => {
            let expected = if order == Order::Thd { 3 } else { 4 };
            return Err(format!("{name} must have {expected} dimensions: given {shape:?}").into());
        }
    };
    let [.., head_dim] = layout.shape();
    if layer.rotary_offset == 0 {
        if head_dim != layer.head_dim {
            let expected = layer.head_dim;
            return Err(format!("{name} must have heads of {expected}: given {head_dim}").into());
        }
        return Ok(layout);
    }
    // MLA: the last channels rotate, of a query, of a latent key, or of nothing but themselves.
    let offset = head_dim.checked_sub(layer.rotary_dim).ok_or_else(|| {
        format!("{name} must have heads of {} or more: given {head_dim}", layer.rotary_dim)
    })?;
    Ok(layout.rotate_from(offset))
}

fn ids(
    positions: Option<files::Positions>,
    batch: usize,
    seq: usize,
    layer: &Layer,
) -> Result<Ids> {
    let Some(files::Positions { shape, ids }) = positions else { return Ok(Ids::FromZero) };
    let tokens = batch * seq;
    let three = shape.first() == Some(&3) && shape.len() > 1 && ids.len() == 3 * tokens;
    if three && layer.sections.is_some() {
        return Ok(Ids::Axes(ids));
    }
    let fits = match shape.as_slice() {
        [_] => true,
        &[rows, columns] => [rows, columns] == [batch, seq] || (batch == 1 && rows == 1),
        _ => false,
    };
    match ids.len() {
        len if fits && len == tokens => Ok(Ids::Each(ids)),
        len if fits && len == seq => Ok(Ids::Shared(ids)),
        _ => {
            let message = format!("positions must be of {batch} x {seq} tokens: given {shape:?}");
            Err(message.into())
        }
    }
}

#[cfg(feature = "cuda")]
pub type Context = std::sync::Arc<condensed_rope::cuda::cudarc::driver::CudaContext>;
#[cfg(not(feature = "cuda"))]
pub type Context = std::convert::Infallible;

/// The GPU, where the backend that was asked for is one.
#[cfg(feature = "cuda")]
fn on_gpu(backend: Backend) -> Result<Option<Context>> {
    match backend {
        Backend::Cpu => Ok(None),
        Backend::Auto => Ok(condensed_rope::cuda::context(0).ok()),
        Backend::Cuda => Ok(Some(condensed_rope::cuda::context(0)?)),
    }
}

#[cfg(not(feature = "cuda"))]
fn on_gpu(backend: Backend) -> Result<Option<Context>> {
    match backend {
        Backend::Cuda => Err("built without the `cuda` feature".into()),
        _ => Ok(None),
    }
}

/// Rotates, and says where.
fn run<T: Element>(
    call: &Call,
    backend: Backend,
    q: &mut [T],
    k: Option<&mut Vec<T>>,
) -> Result<String> {
    match on_gpu(backend)? {
        // The driver refuses empty buffers; nothing is as well done here.
        #[cfg(feature = "cuda")]
        Some(context) if !q.is_empty() => crate::gpu::run(call, &context, q, k),
        _ => {
            let rope = cpu::Rope::new(call.layer.scaled.frequencies(), call.pairing);
            let rope = if call.inverse { rope.inverse() } else { rope };
            let [q_layout, k_layout] = call.layouts;
            let q = cpu::Heads::in_place(q, q_layout);
            let k = k.map(|k| cpu::Heads::in_place(k, k_layout));
            rope.rotate(q, k, positions(call, |ids| ids.into()))?;
            Ok("the CPU".to_owned())
        }
    }
}

/// The call's positions over a backend's buffers.
pub fn positions<'a, I>(call: &Call<'a>, buffer: impl FnOnce(&'a [i64]) -> I) -> Positions<I> {
    match call.ids {
        Ids::FromZero => Positions::from(0),
        Ids::Each(ids) => Positions::ids(buffer(ids)),
        Ids::Shared(ids) => Positions::shared_ids(buffer(ids)),
        Ids::Axes(ids) => {
            let sections = call.layer.sections.expect("axes were chosen by sections");
            Positions::axes(buffer(ids), sections)
        }
    }
}
