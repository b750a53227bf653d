//! Writing cos and sin.

use condensed_rope::{Dtype, cpu};

use crate::files::{self, Tensor};
use crate::rotate::{is_inverse, on_gpu};
use crate::{Result, Rotate, model};

pub fn write(arguments: &Rotate, rows: usize) -> Result<()> {
    let mut rotary = model::rotary(&arguments.model)?;
    let (pairing, inverse) = (rotary.pairing, is_inverse(arguments, &rotary));
    rotary.schedule.set_length(rows);
    let frequencies = rotary.schedule.frequencies();
    let shape = vec![1, 1, rows, rotary.rotary_dim];
    let new = || Tensor::zeros(shape.clone(), Dtype::F32);
    let (mut cos, mut sin) = (new()?, new()?);
    let on = {
        let [cos, sin]: [&mut [f32]; 2] =
            [&mut cos, &mut sin].map(|table| bytemuck::cast_slice_mut(table.bytes_mut()));
        match on_gpu(arguments.backend)? {
            #[cfg(feature = "cuda")]
            Some(context) => crate::gpu::table(&context, frequencies, pairing, inverse, cos, sin)?,
            _ => {
                let rope = cpu::Rope::new(frequencies, pairing);
                let rope = if inverse { rope.inverse() } else { rope };
                rope.cos_sin(0, cos, sin)?;
                "the CPU".to_owned()
            }
        }
    };
    files::write(&arguments.output, &[("cos", &cos), ("sin", &sin)])?;
    println!("cos and sin {:?} f32 made on {on}", cos.shape);
    Ok(())
}
