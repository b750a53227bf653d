//! candle's tensors, rotated there and back.

use std::error::Error;

use candle_core::{Device, Tensor};
use condensed_rope::{Frequencies, Layout, Pairing, Positions, cpu};

fn main() -> Result<(), Box<dyn Error>> {
    let q = Tensor::randn(0f32, 1.0, (16, 4, 64), &Device::Cpu)?;
    let rope = cpu::Rope::new(&Frequencies::new(64, 10_000.0)?, Pairing::Interleaved);
    let mut values = q.flatten_all()?.to_vec1::<f32>()?;
    let layout = Layout::thd(16, 4, 64);
    for rope in [&rope, &rope.inverse()] {
        let heads = cpu::Heads::in_place(&mut values, layout);
        rope.rotate(Some(heads), None, Positions::consecutive(1_000_000))?;
    }
    let back = Tensor::from_vec(values, (16, 4, 64), &Device::Cpu)?;
    let off = (back - q)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(off < 1e-5, "{off}");
    println!("candle: there and back within {off:e}");
    println!(
        "GPU: {}",
        match condensed_rope::cuda::context(0) {
            Ok(context) => format!("{:?}", condensed_rope::cuda::Kernels::load(&context)?),
            Err(error) => format!("not run: {error}"),
        }
    );
    Ok(())
}
