//! Rotating, on the GPU or the CPU, with the same bits.

use condensed_rope::config::Rotary;
use condensed_rope::{DimOrder, Direction, Layout, Positions, cpu};

use crate::files::{self, Tensor};
use crate::{Backend, Order, Result, Rotate, model, positions};

/// A call, but for the tensors.
pub struct Call<'a> {
    pub rotary: &'a Rotary,
    pub inverse: bool,
    pub layouts: [Option<Layout>; 2],
    pub positions: Positions<&'a [i64]>,
}

pub fn rotate(arguments: &Rotate) -> Result<()> {
    let mut rotary = model::rotary(&arguments.model)?;
    let path = arguments.input.as_ref().ok_or("--input is needed")?;
    let files::Input { mut q, mut k, positions } = files::read(path)?;
    let layout_of = |name, tensor: &Option<Tensor>| {
        tensor.as_ref().map(|t| layout(name, t, arguments.layout, &rotary)).transpose()
    };
    let layouts = [layout_of("q", &q)?, layout_of("k", &k)?];
    let [batch, seq, ..] = layouts[0].or(layouts[1]).ok_or("no tensor")?.shape();
    let (positions, length) = positions::of(positions.as_ref(), [batch, seq], rotary.sections)?;
    // Dynamic scaling and LongRoPE look at the longest sequence.
    rotary.schedule.set_length(length);

    let inverse = is_inverse(arguments, &rotary);
    let call = Call { rotary: &rotary, inverse, layouts, positions };
    let on = run(&call, arguments.backend, [&mut q, &mut k])?;
    let tensors = [("q", &q), ("k", &k)];
    let tensors: Vec<(&str, &Tensor)> =
        tensors.into_iter().filter_map(|(name, tensor)| Some((name, tensor.as_ref()?))).collect();
    files::write(&arguments.output, &tensors)?;
    for (name, tensor) in &tensors {
        println!("{name} {:?} {} rotated on {on}", tensor.shape, tensor.dtype.name());
    }
    Ok(())
}

/// Backwards, if the class turns forward.
pub fn is_inverse(arguments: &Rotate, rotary: &Rotary) -> bool {
    arguments.inverse != (rotary.direction == Direction::Inverse)
}

fn layout(
    name: &'static str,
    tensor: &Tensor,
    order: Option<Order>,
    rotary: &Rotary,
) -> Result<Layout> {
    let default = if tensor.shape.len() == 4 { Order::Bshd } else { Order::Thd };
    let order = match order.unwrap_or(default) {
        Order::Thd => DimOrder::Thd,
        Order::Bshd => DimOrder::Bshd,
        Order::Bhsd => DimOrder::Bhsd,
        Order::Sbhd => DimOrder::Sbhd,
    };
    let layout = Layout::contiguous(name, order, &tensor.shape)?;
    let [.., head_dim] = layout.shape();
    if rotary.rotary_offset == 0 {
        if head_dim != rotary.head_dim {
            let expected = rotary.head_dim;
            return Err(format!("{name} must have heads of {expected}: given {head_dim}").into());
        }
        return Ok(layout);
    }
    // MLA: the last channels rotate, of a query, of a latent key, or of nothing but themselves.
    let offset = head_dim.checked_sub(rotary.rotary_dim).ok_or_else(|| {
        format!("{name} must have heads of {} or more: given {head_dim}", rotary.rotary_dim)
    })?;
    Ok(layout.rotate_from(offset))
}

#[cfg(feature = "cuda")]
pub type Context = std::sync::Arc<condensed_rope::cuda::cudarc::driver::CudaContext>;
#[cfg(not(feature = "cuda"))]
pub type Context = std::convert::Infallible;

/// The GPU, where the backend that was asked for is one.
#[cfg(feature = "cuda")]
pub fn on_gpu(backend: Backend) -> Result<Option<Context>> {
    match backend {
        Backend::Cpu => Ok(None),
        Backend::Auto => Ok(condensed_rope::cuda::context(0).ok()),
        Backend::Cuda => Ok(Some(condensed_rope::cuda::context(0)?)),
    }
}

#[cfg(not(feature = "cuda"))]
pub fn on_gpu(backend: Backend) -> Result<Option<Context>> {
    match backend {
        Backend::Cuda => Err("built without the `cuda` feature".into()),
        _ => Ok(None),
    }
}

/// Rotates, and says where.
fn run(call: &Call, backend: Backend, tensors: [&mut Option<Tensor>; 2]) -> Result<String> {
    match on_gpu(backend)? {
        #[cfg(feature = "cuda")]
        Some(context) => crate::gpu::run(call, &context, tensors),
        _ => {
            let rope = cpu::Rope::new(call.rotary.schedule.frequencies(), call.rotary.pairing);
            let rope = if call.inverse { rope.inverse() } else { rope };
            let [q, k] = tensors;
            let [q_layout, k_layout] = call.layouts;
            let q = q.as_mut().zip(q_layout).map(|(q, layout)| q.heads(layout)).transpose()?;
            let k = k.as_mut().zip(k_layout).map(|(k, layout)| k.heads(layout)).transpose()?;
            rope.rotate(q, k, call.positions.map(cpu::Ids::I64))?;
            Ok("the CPU".to_owned())
        }
    }
}
