//! Position ids of a file, for tensors of a batch: leading dimensions are the call's, or 1.

use condensed_rope::{Positions, Sections};

use crate::Result;
use crate::files::Ids;

/// Positions over the file's values, and the length of the longest sequence: one more than the last position.
pub fn of(
    ids: Option<&Ids>,
    [batch, seq]: [usize; 2],
    sections: Option<Sections>,
) -> Result<(Positions<&[i64]>, usize)> {
    let Some(Ids { shape, values }) = ids else { return Ok((Positions::consecutive(0), seq)) };
    let message = || -> Box<dyn std::error::Error> {
        let axes = sections.map_or(String::new(), |s| format!(", or of {} axes", s.axes()));
        format!("positions must be of {batch} x {seq} tokens{axes}: given {shape:?}").into()
    };
    let last = |values: &[i64]| {
        let last = values.iter().max().map_or(0, |last| last.saturating_add(1));
        usize::try_from(last).unwrap_or(0)
    };
    // One row for all sequences, or one each; and how many values that is.
    let rows = |rows: &[usize]| match *rows {
        [n] if n == seq => Some((0, seq)),
        [n] if Some(n) == batch.checked_mul(seq) => Some((seq, n)),
        [1, n] if n == seq => Some((0, seq)),
        [b, n] if [b, n] == [batch, seq] => Some((seq, b.checked_mul(n)?)),
        _ => None,
    };
    if let (Some(sections), Some((&axes, rest))) = (sections, shape.split_first())
        && let Some(extra @ (0 | 1)) = axes.checked_sub(sections.axes())
        && let Some((row_stride, one)) = rows(rest)
    {
        // transformers' one more comes first: text positions, by which nothing turns.
        let values = &values[extra * one..];
        return Ok((Positions::strided_axes(values, sections, [one, row_stride]), last(values)));
    }
    let (row_stride, _) = rows(shape).ok_or_else(message)?;
    let values = values.as_slice();
    let positions = match row_stride {
        0 => Positions::shared_ids(values),
        _ => Positions::ids(values),
    };
    Ok((positions, last(values)))
}
