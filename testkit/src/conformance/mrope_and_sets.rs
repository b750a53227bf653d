//! Pairs that turn by positions of their own, and sequences by frequencies of their own.

use condensed_rope::{Dtype, Frequencies, Layout, Positions, Sections};

use super::grids::{PAIRINGS, run};
use crate::{Backend, Case, Values};

/// Several positions a token: sections in every order, of every number of axes, every layout, type and width of
/// ids.
pub fn axes(backend: &impl Backend) {
    let mut cases = Vec::new();
    for (dim, sections) in [
        (128, Sections::blocks([16, 24, 24])),
        (128, Sections::interleaved([24, 20, 20])),
        (64, Sections::blocks([8, 12, 12])),
        (20, Sections::interleaved([4, 4, 2])),
        (6, Sections::blocks([0, 3, 0])),
        (128, Sections::height_width_then_time([20, 22, 22])),
        (128, Sections::blocks([16, 16, 16, 16])),
        (40, Sections::interleaved([6, 5, 5, 4])),
        (80, Sections::vision_2d(40)),
        (12, Sections::of_pairs(4, &[3, 1, 0, 2, 2, 3])),
        (8, Sections::of_pairs(4, &[3, 3, 3, 3])),
        (64, Sections::blocks([32])),
    ] {
        let sections = sections.expect("small");
        let axes = sections.axes();
        for (i, dtype) in Dtype::ALL.into_iter().enumerate() {
            for pairing in PAIRINGS {
                let flat = |heads| Layout::thd(35, heads, dim + 8).rotate_from(4 * i);
                let batched = |heads| Layout::bhsd(5, heads, 7, dim);
                let ids: Vec<i64> =
                    (0..35 * axes as i32).map(|i| i64::from(i * 7919 % 5000) - 9).collect();
                let narrow = ids.iter().map(|&id| id as i32).collect();
                let unsigned = ids.iter().map(|&id| id as u32).collect();
                for (q, k, positions) in [
                    (flat(6), flat(2), Positions::axes(Values::I64(ids.clone()), sections)),
                    (batched(3), batched(3), Positions::axes(Values::I32(narrow), sections)),
                    // An expanded [axes, 1, seq], rows with gaps, and axes with gaps.
                    (
                        batched(3),
                        batched(1),
                        Positions::strided_axes(
                            Values::I64(ids[..7 * axes].to_vec()),
                            sections,
                            [7, 0],
                        ),
                    ),
                    (
                        batched(1),
                        batched(2),
                        Positions::strided_axes(Values::U32(unsigned), sections, [33, 6]),
                    ),
                ] {
                    cases.push(Case { dtype, pairing, positions, ..Case::of(dim, q, Some(k)) });
                }
            }
        }
    }
    run(backend, "positions on several axes", cases.into_iter());
}

/// Sequences that turn by sets of their own: ratios, LongRoPE's lists with their factor.
pub fn sets(backend: &impl Backend) {
    let mut cases = Vec::new();
    for dim in [128, 96, 20, 6] {
        let plain = |base| Frequencies::new(dim, base).expect("valid");
        let sets = vec![
            plain(10_000.0).with_factor(0.75).expect("valid"),
            plain(10_000.0).condensed(8.0).expect("valid"),
            plain(500_000.0).with_factor(1.19).expect("valid"),
        ];
        for dtype in Dtype::ALL {
            for pairing in PAIRINGS {
                let ragged = Positions::ragged_from(
                    Values::I32(vec![0, 5, 5, 6, 20, 35]),
                    Values::I64(vec![3, 2000, 16_000, 7, 0]),
                );
                // Out of range is the last one.
                let chosen = Values::I32(vec![1, 0, 2, i32::MIN, 7]);
                let wide = Values::I64(vec![2, 1, 0, -1, 1 << 40]);
                let unsigned = Values::U32(vec![2, 0, u32::MAX, 1 << 31, 1]);
                let flat = |heads| Layout::thd(35, heads, dim);
                let batched = |heads| Layout::bshd(5, 7, heads, dim);
                for (layouts, positions, inverse) in [
                    ([flat(6), flat(2)], ragged.with_sets(chosen.clone()), false),
                    (
                        [batched(3), batched(3)],
                        Positions::consecutive(16_000).with_sets(wide),
                        true,
                    ),
                    ([batched(4), batched(1)], Positions::consecutive(-3), false),
                    (
                        [batched(2), batched(1)],
                        Positions::consecutive(70).with_sets(unsigned),
                        false,
                    ),
                ] {
                    let [q, k] = layouts;
                    let case = Case::of(dim, q, Some(k));
                    cases.push(Case {
                        dtype,
                        pairing,
                        positions,
                        inverse,
                        sets: sets.clone(),
                        ..case
                    });
                }
            }
        }
    }
    run(backend, "sets of frequencies", cases.into_iter());
}
