//! The mutants: one change each, that a test must notice.

/// Whether the change is of an expression or of whole statements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Expression,
    Statement,
}

/// One change.
pub struct Mutant {
    pub file: &'static str,
    pub kind: Kind,
    /// What the file has, once.
    pub from: &'static str,
    /// What it has instead where the mutant is chosen.
    pub to: &'static str,
    /// Why no test can notice it, where none can.
    pub equivalent: Option<&'static str>,
}

const fn e(file: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { file, kind: Kind::Expression, from, to, equivalent: None }
}

const fn s(file: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { file, kind: Kind::Statement, from, to, equivalent: None }
}

const fn same(mutant: Mutant, reason: &'static str) -> Mutant {
    Mutant { equivalent: Some(reason), ..mutant }
}

const OPERAND: &str = "src/call/operand.rs";
const CHECK: &str = "src/call/check.rs";
const LAYOUT: &str = "src/call/layout.rs";
const POSITIONS: &str = "src/call/positions.rs";
const SECTIONS: &str = "src/call/sections.rs";
const PAIRING: &str = "src/call/pairing.rs";
const SPEC: &str = "src/call/spec.rs";
const DTYPE: &str = "src/call/dtype.rs";
const FREQUENCIES: &str = "src/frequencies/mod.rs";
const SCHEDULE: &str = "src/frequencies/schedule.rs";
const WORDS: &str = "src/frequencies/phase_words.rs";
const YARN: &str = "src/frequencies/scaling/yarn.rs";
const LLAMA3: &str = "src/frequencies/scaling/llama3.rs";
const LONGROPE: &str = "src/frequencies/scaling/longrope.rs";
const DYNAMIC: &str = "src/frequencies/scaling/dynamic.rs";
const PROPORTIONAL: &str = "src/frequencies/scaling/proportional.rs";
const LAUNCH: &str = "src/plan/launch.rs";
const ROTATION: &str = "src/plan/rotation.rs";
const APPEND: &str = "src/plan/append/mod.rs";
const APPEND_TENSOR: &str = "src/plan/append/tensor.rs";
const APPEND_CACHE: &str = "src/plan/append/cache.rs";
const RUN: &str = "src/plan/run.rs";
const SOURCE: &str = "src/plan/source.rs";
const VARIANT: &str = "src/plan/variant.rs";
const TILING: &str = "src/plan/tiling.rs";
const PARAMS: &str = "src/plan/params.rs";
const CPU_ROTATE: &str = "src/cpu/rotate.rs";
const CPU_POSITIONS: &str = "src/cpu/positions.rs";
const CPU_ANGLES: &str = "src/cpu/angles.rs";
const CPU_PHASE: &str = "src/cpu/phase.rs";
const CPU_IDS: &str = "src/cpu/ids.rs";
const CPU_THREADS: &str = "src/cpu/threads.rs";
const FASTCHAT: &str = "src/fastchat.rs";
const READER: &str = "src/config/hf/reader.rs";
const HF_SCALING: &str = "src/config/hf/scaling.rs";
const HF_LAYERS: &str = "src/config/hf/layers.rs";
const HF_FIELDS: &str = "src/config/hf/fields.rs";
const CLI_POSITIONS: &str = "cli/src/positions.rs";
const CLI_FILES: &str = "cli/src/files.rs";
const K_FLAT: &str = "kernels/flat.cuh";
const K_APPEND: &str = "kernels/append.cuh";
const K_SLOT: &str = "kernels/stage/slot.cuh";
const K_ROTATE: &str = "kernels/rotate.cuh";
const K_COS_SIN: &str = "kernels/cos_sin.cuh";
const K_PHASE: &str = "kernels/phase.cuh";
const K_VEC: &str = "kernels/vec.cuh";
const K_POSITIONS: &str = "kernels/params/positions.cuh";
const K_FRAGMENT: &str = "kernels/stage/fragment.cuh";
const K_ANGLES: &str = "kernels/stage/angles.cuh";
const K_TURN: &str = "kernels/stage/turn.cuh";
const K_PASS: &str = "kernels/stage/pass_through.cuh";

pub const MUTANTS: &[Mutant] = &[
    // Bounds, alignment and ranges of operands.
    s(OPERAND, "check_view(tensor, self.dtype.size(), source, from, rotary_dim)?;", ""),
    s(OPERAND, "self.layout.check_rows_disjoint(names.target)?;", ""),
    e(
        OPERAND,
        "source.address == target.address && from == layout",
        "source.address == target.address",
    ),
    e(OPERAND, "source.address == target.address && from == layout", "from == layout"),
    e(OPERAND, "Some(a.min(b))", "Some(a.max(b))"),
    e(OPERAND, "from.shape() != self.layout.shape()", "false"),
    e(OPERAND, "from.rotary_offset() != self.layout.rotary_offset()", "false"),
    e(OPERAND, "(address - base) / size as u64", "address - base"),
    e(OPERAND, "address == 0", "false"),
    e(OPERAND, "!address.is_multiple_of(alignment as u64)", "false"),
    e(OPERAND, "address.checked_add(bytes as u64).is_none()", "false"),
    same(
        e(
            OPERAND,
            "self.len.unwrap_or(isize::MAX as usize / size)",
            "self.len.unwrap_or(isize::MAX as usize)",
        ),
        "an address that overflows is refused behind it, whatever the limit of a length that is not given",
    ),
    // The call.
    e(CHECK, "operand.dtype != first.dtype", "false"),
    e(CHECK, "[b, s] != [batch, seq]", "false"),
    e(CHECK, "[b, s] != [batch, seq]", "b * s != batch * seq"),
    s(CHECK, "check_disjoint(&operands)?;", ""),
    s(
        CHECK,
        "shares(source, layout, other_names.source)?;",
        "if i == j { shares(source, layout, other_names.source)?; }",
    ),
    e(CHECK, "i < j", "false"),
    s(CHECK, "self.positions.check(batch, seq, rotary_dim)?;", ""),
    e(CHECK, "self.rows > limit", "false"),
    e(CHECK, "given != needed", "given < needed"),
    e(
        CHECK,
        "self.cos.address.abs_diff(self.sin.address) >= (needed * size) as u64",
        "self.cos.address.abs_diff(self.sin.address) >= needed as u64",
    ),
    e(CHECK, "self.tokens() == 0 || self.heads() == [0, 0]", "self.tokens() == 0"),
    // Layouts.
    e(LAYOUT, "head_dim == 0 || head_dim > MAX_HEAD_DIM", "head_dim > MAX_HEAD_DIM"),
    e(
        LAYOUT,
        "head_dim == 0 || head_dim > MAX_HEAD_DIM",
        "head_dim == 0 || head_dim > MAX_HEAD_DIM + 1",
    ),
    e(LAYOUT, "self.heads <= MAX_HEADS", "self.heads <= 2 * MAX_HEADS"),
    e(LAYOUT, "n <= MAX_TOKENS", "n <= MAX_TOKENS + 1"),
    e(LAYOUT, "tokens && fits(self.batch) && fits(self.seq)", "tokens"),
    e(LAYOUT, "stride <= MAX_STRIDE", "stride <= MAX_STRIDE + 1"),
    e(LAYOUT, "self.offset <= MAX_STRIDE", "true"),
    e(LAYOUT, "needed > len", "needed > len + 1"),
    e(LAYOUT, "stride < inner", "stride <= inner"),
    e(LAYOUT, "stride < inner", "stride + 1 < inner"),
    e(
        LAYOUT,
        "stride.saturating_mul(size - 1).saturating_add(inner)",
        "stride.saturating_mul(size - 1)",
    ),
    e(LAYOUT, "a_end - first <= period", "true"),
    e(LAYOUT, "b_end - first <= period", "true"),
    e(LAYOUT, "period == other", "true"),
    e(LAYOUT, "layout.head_dim > 1 && strides[expected - 1] != 1", "strides[expected - 1] != 1"),
    e(LAYOUT, "layout.head_dim > 1 && strides[expected - 1] != 1", "false"),
    e(LAYOUT, "sizes[dimension] <= 1", "false"),
    // Positions.
    e(POSITIONS, "matches!(row, None | Some(0)) && axis.is_none()", "false"),
    e(POSITIONS, "given == expected || (given > expected && !exact)", "given == expected"),
    e(POSITIONS, "if batch > 1 { row } else { 0 }", "row"),
    e(
        POSITIONS,
        "if row == 0 { seq } else { batch.saturating_mul(row) }",
        "batch.saturating_mul(row)",
    ),
    e(POSITIONS, "batch == 0 || seq == 0", "batch == 0"),
    e(POSITIONS, "batch != 1", "false"),
    e(POSITIONS, "cu_seqlens.dtype != IndexType::I32", "cu_seqlens.dtype == IndexType::I64"),
    e(POSITIONS, "sequences > MAX_SETS", "false"),
    e(POSITIONS, "given.checked_sub(1).filter(|&n| n > 0)", "given.checked_sub(1)"),
    s(POSITIONS, "cu_seqlens.check(CU_SEQLENS)?;", ""),
    s(POSITIONS, "per_sequence(STARTS, sequences, starts)?;", ""),
    s(POSITIONS, "sections.check(rotary_dim / 2)?;", ""),
    e(SECTIONS, "pair >= end", "pair > end"),
    e(SECTIONS, "pair < axes * sizes[axis]", "pair < axes * sizes[1]"),
    e(SECTIONS, "1 + pair % 2", "2 - pair % 2"),
    e(SECTIONS, "usize::from(width > height)", "usize::from(height > width)"),
    e(SECTIONS, "axis >= axes", "axis > axes"),
    e(PAIRING, "(factor, -factor)", "(factor, factor)"),
    e(SPEC, "expected != len", "expected > len"),
    e(DTYPE, "0x7fff + ((bits >> 16) & 1)", "0x8000"),
    same(
        e(DTYPE, "magnitude >= 0x477f_f000", "magnitude > 0x477f_f000"),
        "65520 is a tie, which the other way rounds to infinity, too",
    ),
    // Frequencies.
    e(
        FREQUENCIES,
        "Self { factor: self.factor, ..Self::checked(inv_freq)? }",
        "Self::checked(inv_freq)?",
    ),
    e(FREQUENCIES, "f.high.abs() >= limit", "f.high.abs() > limit"),
    e(FREQUENCIES, "f.high.abs() >= limit", "f.high >= limit"),
    e(FREQUENCIES, "!(ratio.is_finite() && ratio > 0.0)", "!ratio.is_finite()"),
    e(FREQUENCIES, "!factor.is_finite()", "factor.is_nan()"),
    e(FREQUENCIES, "rotary_dim > MAX_HEAD_DIM", "rotary_dim > MAX_HEAD_DIM + 2"),
    e(SCHEDULE, "schedule.scaling.scheme().other_stage()", "None"),
    e(SCHEDULE, "self.ratio * ratio", "ratio"),
    e(SCHEDULE, "ratio != 1.0 && !self.scaling.is_condensable()", "false"),
    e(SCHEDULE, "stage != self.stage", "true"),
    e(WORDS, "format != Self::FORMAT", "false"),
    s(WORDS, "words.words[zero..].fill(0);", ""),
    e(WORDS, "set == 0 && expected.to_bits() != given.to_bits()", "false"),
    e(
        WORDS,
        "set == 0 && expected.to_bits() != given.to_bits()",
        "expected.to_bits() != given.to_bits()",
    ),
    e(WORDS, "set >= self.sets", "set > self.sets"),
    e(WORDS, "index.min(self.sets - 1)", "index % self.sets"),
    e(YARN, "base.dim.high - 1.0", "base.dim.high / 2.0 - 1.0"),
    e(YARN, "low.high < 0.0", "false"),
    e(YARN, "high.high.ceil().into()", "high.high.floor().into()"),
    e(YARN, "scale(mscale) / scale(all_dim)", "scale(all_dim) / scale(mscale)"),
    e(LLAMA3, "turns.high < high", "turns.high < high * 0.9"),
    same(
        e(LLAMA3, "turns.high < low", "turns.high <= low"),
        "at the border itself the blend weighs the slow frequency by one",
    ),
    e(
        LONGROPE,
        "usize::from(length > self.original_max_position_embeddings)",
        "usize::from(length >= self.original_max_position_embeddings)",
    ),
    e(DYNAMIC, "length > self.max_position_embeddings", "length >= self.max_position_embeddings"),
    e(PROPORTIONAL, "f.div(self.factor.into())", "*f"),
    // Plans.
    e(
        ROTATION,
        "bits | t.src.address_bits() | t.dst.address_bits()",
        "bits | t.src.address_bits()",
    ),
    e(
        ROTATION,
        "bits | t.src.address_bits() | t.dst.address_bits()",
        "bits | t.dst.address_bits()",
    ),
    e(
        ROTATION,
        "if call.positions().sets.is_some() { 1.0 } else { self.spec.factor() }",
        "self.spec.factor()",
    ),
    e(LAUNCH, "if table.rows > 1 { dim * size } else { 0 }", "0"),
    e(SOURCE, "Ids { stride: 0, ..given }", "given"),
    e(SOURCE, "ids.dtype == IndexType::U32", "false"),
    e(LAUNCH, "(self.spec.words.sets - 1) as u32", "self.spec.words.sets as u32"),
    e(ROTATION, "operand.layout.shape()[3] == rotary_dim", "true"),
    // Which tokens lie in one run.
    e(RUN, "inner.checked_mul(seq as u64) == Some(outer)", "true"),
    e(RUN, "(_, 1) => outer", "(_, 1) => inner"),
    e(RUN, "cu_seqlens != 0", "false"),
    e(RUN, "u32::try_from(head).ok()?", "head as u32"),
    s(RUN, "ids.stride.checked_mul(u32::try_from(batch * seq).ok()?)?;", ""),
    e(ROTATION, "neighbours && !general", "!general"),
    e(ROTATION, "u64::from(before_k) * u64::from(k.head)", "0"),
    e(APPEND_TENSOR, "t.shape.before == 0 && t.shape.rest == 0", "t.shape.before == 0"),
    e(APPEND_TENSOR, "goes(q, &[IN_PLACE])", "true"),
    e(APPEND, "variant.is_fast() && !general", "variant.is_fast()"),
    e(APPEND, "variant.is_fast() && !general", "!general"),
    e(APPEND_CACHE, "u32::try_from(stride).ok()", "Some(stride as u32)"),
    e(APPEND_CACHE, "ids.len.min(tokens)", "tokens"),
    e(APPEND, "is_general(&call.positions) || table.width > 0", "is_general(&call.positions)"),
    e(APPEND, "tensors[KEY].map_or(NOWHERE, |k| k.target)", "NOWHERE"),
    e(ROTATION, "before_k + heads[1]", "heads[1]"),
    e(VARIANT, "pairs.is_multiple_of(variant.pairs())", "true"),
    e(
        VARIANT,
        "bits.is_multiple_of(variant.bytes as u64)",
        "bits.is_multiple_of(variant.bytes as u64 / 2)",
    ),
    e(TILING, "self.threads() / multiprocessors > PDL_THREADS", "false"),
    e(TILING, "(q + k).div_ceil(n * rounds)", "(q + k) / (n * rounds)"),
    e(TILING, "(slices * rows * of_a_row) as u32", "(slices * rows) as u32"),
    e(
        TILING,
        "tokens.div_ceil(tokens_per_block) as u32",
        "(tokens / tokens_per_block).max(1) as u32",
    ),
    e(PARAMS, "if n > 1 { (strides[i] * size) as i64 } else { 0 }", "(strides[i] * size) as i64"),
    e(PARAMS, "layout.offset() + layout.rotary_offset()", "layout.offset()"),
    // The CPU backend.
    e(CPU_ROTATE, "y0.mul_add(cos, x0 * sin)", "y0.mul_add(cos, -(x0 * sin))"),
    e(CPU_ROTATE, "x0.mul_add(cos, -(y0 * sin))", "x0 * cos - y0 * sin"),
    e(
        CPU_POSITIONS,
        "cu_seqlens.get(middle) <= token as i64",
        "cu_seqlens.get(middle) < token as i64",
    ),
    e(CPU_POSITIONS, "token as i64 - cu_seqlens.get(sequence)", "token as i64"),
    e(CPU_POSITIONS, "axis * self.strides.axis + first", "axis + first"),
    e(
        CPU_POSITIONS,
        "(read_set(self.words, shape, 0).0, self.spec.factor())",
        "read_set(self.words, shape, 0)",
    ),
    s(
        CPU_ROTATE,
        "row.copy_from_slice(unsafe { std::slice::from_raw_parts(start, head_dim) });",
        "let _ = start;",
    ),
    e(CPU_ANGLES, "exact_sin * turns.sin_factor", "exact_sin * turns.cos_factor"),
    e(CPU_PHASE, "turns.wrapping_add(0x2000_0000)", "turns.wrapping_add(0x2000_0001)"),
    e(
        CPU_IDS,
        "unsafe { id.cast::<u32>().read() }.into()",
        "unsafe { id.cast::<i32>().read() }.into()",
    ),
    e(CPU_THREADS, "((i + 1) * per_task).min(items)", "(i + 1) * per_task - 1"),
    e(CPU_THREADS, "here(FIRST_PROCESS.load(Ordering::Relaxed))", "true"),
    e(CPU_THREADS, "here(pool.process)", "true"),
    e(FASTCHAT, "self.capacity.max(seq_len as f64)", "seq_len as f64"),
    e(FASTCHAT, "max_position_embeddings as f64 * ratio", "max_position_embeddings as f64"),
    // Configs, and the program.
    e(
        READER,
        "if is_interleaved { Pairing::Interleaved } else { Pairing::HalfSplit }",
        "Pairing::HalfSplit",
    ),
    e(READER, "top.number(key)?.unwrap_or(default)", "top.number(key)?.unwrap_or(default + 1.0)"),
    e(
        HF_SCALING,
        "[Some(mscale), Some(all_dim)] => Some((mscale, all_dim))",
        "[Some(mscale), Some(all_dim)] => Some((all_dim, mscale))",
    ),
    e(HF_LAYERS, "!n.is_multiple_of(interval)", "!(n - 1).is_multiple_of(interval)"),
    e(HF_LAYERS, "rotates != 0", "rotates == 0"),
    e(HF_FIELDS, "seen.contains(&self.name(key))", "true"),
    e(CLI_POSITIONS, "Ok((positions, last(values)))", "Ok((positions, seq))"),
    e(CLI_POSITIONS, "extra * one", "0"),
    e(
        CLI_FILES,
        "OpenOptions::new().write(true).create_new(true).open(&part)",
        "OpenOptions::new().write(true).create_new(true).open(path)",
    ),
    e(CLI_FILES, "fs::rename(&part, path)", "fs::copy(&part, path).map(|_| ())"),
    // The kernels' own source.
    e(K_ROTATE, "coord.t >= params.tokens", "coord.t > params.tokens"),
    e(K_TURN, "mul_rn(cos_factor, factor)", "cos_factor"),
    e(K_TURN, "mul_rn(sin_factor, factor)", "sin_factor"),
    e(
        K_TURN,
        "static_cast<uint64_t>(params.sets.set(sequence)) * params.sets.stride",
        "static_cast<uint64_t>(params.sets.set(sequence)) * 2",
    ),
    e(K_ROTATE, "at.slice >= params.q_slices", "at.slice > params.q_slices"),
    e(K_ROTATE, "params.heads_per_block * rows.head", "rows.head"),
    e(K_ROTATE, "from + (i * fragment.head_bytes - coord.pair_offset)", "from - coord.pair_offset"),
    e(K_TURN, "params.positions.sequence(coord.t, coord.b)", "coord.b"),
    e(K_FLAT, "t < params.tokens", "t <= params.tokens"),
    e(K_FLAT, "in_range && h < end", "in_range && h <= end"),
    e(K_FLAT, "pick(SHARING != APART || of_k, params.end)", "pick(of_k, params.end)"),
    e(K_FLAT, "h >= params.end[0]", "h > params.end[0]"),
    e(K_FLAT, "has(first + params.heads_per_round)", "false"),
    s(K_FLAT, "first = next;", ""),
    s(
        K_FLAT,
        "id = params.ids.load_if(has_work, t * params.ids.stride);",
        "id = params.ids.load_if(has_work, 0u);",
    ),
    e(K_POSITIONS, "t * params.counts", "0 * params.counts"),
    e(K_ANGLES, "8 * first", "first"),
    e(K_APPEND, "is_inside = t < params.tokens", "is_inside = true"),
    e(K_APPEND, "rows.offset(coord.t, first)", "rows.offset(coord.t, 0)"),
    e(K_APPEND, "slice * HEADS * params.heads_per_block", "slice * params.heads_per_block"),
    e(K_APPEND, "first + i * params.heads_per_block", "first + i"),
    e(K_APPEND, "static_cast<uint64_t>(coord.t) * params.ids.stride", "0"),
    e(K_APPEND, "static_cast<uint64_t>(first) * pages.head", "0"),
    e(K_APPEND, "target == IN_PLACE", "false"),
    s(K_APPEND, "if (!slot.is_stored) return;", ""),
    e(K_APPEND, "add_rn(x, params.weight_offset)", "x"),
    e(K_APPEND, "KEEPS_SCALES ? scale[i] : of.load(head(params, i))", "scale[i]"),
    e(K_APPEND, "i * static_cast<int64_t>(heads * params.src[TENSOR].head)", "0"),
    e(K_SLOT, "slot - slots.first < slots.count", "slot < slots.count"),
    e(K_SLOT, "t < slots.tokens", "true"),
    e(K_FLAT, "is_key ? of_k : of_q", "of_q"),
    e(K_FLAT, "(of_k ? params.q_slices : 0)", "0"),
    e(K_COS_SIN, "row >= params.rows", "row > params.rows"),
    e(K_COS_SIN, "static_cast<uint64_t>(params.start) + row", "static_cast<uint64_t>(row)"),
    e(K_PHASE, "turns + 0x20000000u", "turns + 0x20000001u"),
    e(K_PHASE, "static_cast<int32_t>(nearest ^ next) < 0", "static_cast<int32_t>(nearest) < 0"),
    e(K_PHASE, "nearest + 0x40000000u", "nearest"),
    e(K_VEC, "0x7fffu + ((bits >> 16) & 1)", "0x8000u"),
    s(
        K_VEC,
        "raw[i] = rope::load<BYTES>(address + i * partner, policy...);",
        "raw[i] = rope::load<BYTES>(address, policy...);",
    ),
    e(K_POSITIONS, "permute_bytes(id.high, upper >> 8)", "(upper & 4 ? id.high : 0)"),
    e(
        K_POSITIONS,
        "cu_seqlens[middle] <= static_cast<int32_t>(t)",
        "cu_seqlens[middle] < static_cast<int32_t>(t)",
    ),
    e(K_POSITIONS, "s * counts", "s"),
    e(
        K_POSITIONS,
        "id < last ? static_cast<uint32_t>(id) : last",
        "static_cast<uint32_t>(id) < last ? static_cast<uint32_t>(id) : last",
    ),
    e(K_FRAGMENT, "first + i * range.step < range.heads", "first + i * range.step <= range.heads"),
    e(K_ANGLES, "fma_rn(y, cos[i], mul_rn(x0, sin[i]))", "fma_rn(y, cos[i], mul_rn(x, sin[i]))"),
    e(K_FRAGMENT, "range.step * rows.head", "rows.head"),
    e(
        K_ANGLES,
        "code & 2 ? high : code & 1 ? along[1] : along[0]",
        "code & 1 ? along[1] : along[0]",
    ),
    e(K_ANGLES, "COUNT > 3 && !(code & 1) ? along[2] : last", "last"),
    e(K_ANGLES, "steps[first + i]", "steps[i]"),
    e(K_PASS, "(i < before ? i : i + rotated) - before", "i - before"),
];
