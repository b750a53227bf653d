//! What holds whatever the shape.

use condensed_rope::{Dtype, Frequencies, Layout, Pairing, Positions};
use half::{bf16, f16};

use crate::call::TestElement;
use crate::oracle::{self, tolerance};
use crate::{Backend, Case, Cpu, Values, check, hostile};

/// NaN, infinities, zeros of both signs, subnormals and the largest numbers, in every pairing of x
/// and y.
pub fn special_values(backend: &impl Backend) {
    fn run<T: TestElement>(backend: &impl Backend, specials: &[T]) {
        for pairing in [Pairing::HalfSplit, Pairing::Interleaved] {
            let n = specials.len();
            let case = Case {
                pairing,
                positions: Positions::ids(Values::I32((0..n as i32).map(|i| i * 911).collect())),
                ..Case::of(16, Layout::thd(n, 2 * n, 16), None)
            };
            let mut call = case.build::<T>();
            for (i, x) in call.q().buffer.iter_mut().enumerate() {
                *x = specials[(i * 7 + i / 16 + i / 256) % n];
            }
            let mut cpu = call.clone();
            backend.rotate(&mut call).expect("a valid call");
            Cpu.rotate(&mut cpu).expect("a valid call");
            call.assert_same_bits(&cpu, &format!("{} on special values", backend.name()));
            assert!(call.q().buffer.iter().any(|x| x.value().is_nan()));
        }
    }
    run(
        backend,
        &[
            0u32,
            1,
            1 << 31,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0xff80_0001,
            0x7f7f_ffff,
            0x0080_0000,
            0x807f_ffff,
            0x3f80_0000,
        ]
        .map(f32::from_bits),
    );
    run(
        backend,
        &[0u16, 1, 0x8000, 0x7c00, 0xfc00, 0x7e00, 0xfc01, 0x7bff, 0x0400, 0x83ff, 0x3c00]
            .map(f16::from_bits),
    );
    run(
        backend,
        &[0u16, 1, 0x8000, 0x7f80, 0xff80, 0x7fc0, 0xff81, 0x7f7f, 0x0080, 0x807f, 0x3f80]
            .map(bf16::from_bits),
    );
}

/// A token rotated alone, and a head rotated alone, get the bits they get in the batch.
pub fn sharding(backend: &impl Backend) {
    let ids: Vec<i64> = (0..37).map(|i| i * i * 31).collect();
    let whole = Case {
        positions: Positions::ids(Values::I64(ids.clone())),
        ..Case::of(128, Layout::thd(37, 12, 128), Some(Layout::thd(37, 3, 128)))
    };
    let before = whole.build::<bf16>();
    let mut batch = before.clone();
    backend.rotate(&mut batch).expect("a valid call");
    for t in [0, 1, 17, 36] {
        for h in [0, 5, 11] {
            let mut alone = before.clone();
            alone.k = None;
            alone.q().layout = Layout::thd(1, 1, 128).at((t * 12 + h) * 128);
            alone.positions = Positions::consecutive(ids[t]);
            backend.rotate(&mut alone).expect("a valid call");
            let row = (t * 12 + h) * 128..(t * 12 + h + 1) * 128;
            let bits = |call: &mut crate::Call<bf16>| {
                call.q().buffer[row.clone()].iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            assert_eq!(bits(&mut alone), bits(&mut batch), "token {t}, head {h}");
        }
    }
}

/// Forward and inverse meet within twice the tolerance of one of them.
pub fn inverse(backend: &impl Backend) {
    let case = Case {
        dtype: Dtype::F32,
        ratio: 8.0,
        positions: Positions::consecutive(12_345),
        ..Case::of(64, Layout::thd(9, 4, 96).rotate_from(32), None)
    };
    check(backend, &case);
    check(backend, &Case { inverse: true, ..case.clone() });
    let mut before = case.build::<f32>();
    let mut call = before.clone();
    backend.rotate(&mut call).expect("a valid call");
    call.inverse = true;
    backend.rotate(&mut call).expect("a valid call");
    for (i, (x, y)) in before.q().buffer.iter().zip(&call.q().buffer).enumerate() {
        let (x, y) = (f64::from(*x), f64::from(*y));
        let allowed = 2.0 * tolerance::rotated(Dtype::F32, x, 4.0, tolerance::COS_SIN);
        assert!((x - y).abs() <= allowed, "element {i}: {x} came back as {y}");
    }
}

/// Tables in every type, both pairings and any width, from zero, from far out and from below zero.
pub fn tables(backend: &impl Backend) {
    /// Pairs that at position 1 are nearest to where one quadrant ends and the next begins: an eighth of a turn,
    /// three, …, and up to two of the kernels' 2^-32 turns to either side.
    fn borders() -> Frequencies {
        let eighths = (0..4).map(|quadrant| 0.125 + 0.25 * f64::from(quadrant));
        let units = [-2.0, -1.0, -0.75, -0.5, 0.0, 0.5, 1.0, 2.0];
        let turns = eighths.flat_map(|turns| units.map(|unit| turns + unit * 2f64.powi(-32)));
        let inv_freq: Vec<f64> = turns.map(|turns| turns * std::f64::consts::TAU).collect();
        Frequencies::from_inv_freq(&inv_freq).expect("valid")
    }

    fn run<T: TestElement>(backend: &impl Backend) {
        let plain = |dim| Frequencies::new(dim, 10_000.0).and_then(|f| f.condensed(8.0));
        for (frequencies, rows, start, pairing) in [
            (plain(128), 300, 0, Pairing::HalfSplit),
            (plain(128), 65, 16_320, Pairing::Interleaved),
            (plain(20), 7, -3, Pairing::HalfSplit),
            (plain(20), 7, -3, Pairing::Interleaved),
            (plain(6), 9, 1 << 30, Pairing::HalfSplit),
            (plain(6), 9, 1 << 30, Pairing::Interleaved),
            (plain(1024), 3, 5, Pairing::HalfSplit),
            (Ok(borders()), 3, -1, Pairing::HalfSplit),
        ] {
            let frequencies = frequencies.and_then(|f| f.with_factor(1.25)).expect("valid");
            let dim = frequencies.rotary_dim();
            let mut got = [vec![T::default(); rows * dim], vec![T::default(); rows * dim]];
            let mut cpu = got.clone();
            let [cos, sin] = &mut got;
            backend.cos_sin(&frequencies, pairing, start, cos, sin).expect("valid");
            let [cos, sin] = &mut cpu;
            Cpu.cos_sin(&frequencies, pairing, start, cos, sin).expect("valid");
            for row in 0..rows {
                let angles = oracle::angles(&frequencies, |_| start + row as i64, false);
                for (j, angle) in angles.iter().enumerate() {
                    let error = (tolerance::COS_SIN + angle.error) * 1.25;
                    for channel in oracle::channels(pairing, dim / 2, j) {
                        let at = row * dim + channel;
                        for (i, exact) in [angle.cos, angle.sin].into_iter().enumerate() {
                            assert_eq!(got[i][at].bits(), cpu[i][at].bits());
                            let exact = exact * 1.25;
                            let before = error + tolerance::unit_roundoff(Dtype::F32) * 1.25;
                            let allowed = tolerance::stored(T::DTYPE, exact, before);
                            let value = got[i][at].value();
                            assert!(
                                (value - exact).abs() <= allowed,
                                "row {row} channel {channel}: {value} is not {exact}"
                            );
                        }
                    }
                }
            }
        }
    }
    run::<f32>(backend);
    run::<f16>(backend);
    run::<bf16>(backend);
}

/// Calls at random, most of them wrong: see [`hostile`].
pub fn hostile(backend: &impl Backend) {
    hostile::run(backend, hostile::count(), 5);
}
