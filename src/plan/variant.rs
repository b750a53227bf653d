//! The kernels: which there are, and which vectors fit a call.

use std::fmt;

use super::params::Rows;
use crate::{Dtype, Pairing, Pdl};

/// What a rotation's kernels have to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In place, and tokens in one run. In the order of work that suits the launch.
    Flat(Pdl),
    /// Any other.
    Strided,
    /// The same, by several positions a token, by one of several sets of frequencies, or by `u32` ids.
    General,
}

/// And append's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendForm {
    /// Tokens in one run, and q in place.
    Flat,
    /// The same, of launches that start early.
    FlatEarly,
    /// Any other.
    Strided,
    /// The same, as a rotation's, or by a page table.
    General,
}

/// Heads that one thread takes, and how blocks share a token's: `Sharing` of `kernels/flat.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// So many of q or of k.
    Apart(usize),
    /// So many of q with so many of k.
    Together(usize, usize),
    /// So many of q's and k's, which are one list.
    List(usize),
    /// The same, and again as many: blocks that are too few go on over the list.
    Walk(usize),
}

impl Heads {
    /// Of flat ones, those of every form, and those of launches that do not start early alone.
    const FLAT: [Self; 3] = [Self::Apart(1), Self::Apart(4), Self::List(5)];
    const PLAIN: [Self; 4] = [Self::Apart(2), Self::List(4), Self::List(8), Self::Walk(6)];
    const STRIDED: [Self; 2] = [Self::Apart(2), Self::Together(2, 1)];

    /// Whether k's heads are numbered on from q's.
    pub fn is_list(self) -> bool {
        matches!(self, Self::List(_) | Self::Walk(_))
    }
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(heads) => write!(f, "{heads}"),
            Self::Together(q, k) => write!(f, "{q}_{k}"),
            Self::List(heads) => write!(f, "list_{heads}"),
            Self::Walk(heads) => write!(f, "walk_{heads}"),
        }
    }
}

/// One entry of a rotation, in all variants: `ROPE_FLAT_ENTRIES` and `ROPE_ENTRIES` of `kernels/variants.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub form: Form,
    pub heads: Heads,
}

impl Entry {
    pub const COUNT: usize = Heads::PLAIN.len() + 3 * Heads::FLAT.len() + 2 * Heads::STRIDED.len();

    pub fn all() -> impl Iterator<Item = Self> {
        let of =
            |form, heads: &'static [Heads]| heads.iter().map(move |&heads| Self { form, heads });
        let flat = move |pdl| of(Form::Flat(pdl), &Heads::FLAT);
        let strided = move |form| of(form, &Heads::STRIDED);
        of(Form::Flat(Pdl::Off), &Heads::PLAIN)
            .chain([Pdl::Off, Pdl::On, Pdl::PositionsReady].into_iter().flat_map(flat))
            .chain([Form::Strided, Form::General].into_iter().flat_map(strided))
    }

    /// Whether it is compiled in a variant: of flat ones lists in the fast ones, where four heads need no entry besides, and
    /// two heads in narrow ones.
    fn is_in(self, variant: Variant) -> bool {
        match (self.form, self.heads) {
            (Form::Flat(_), Heads::Apart(2)) => !variant.is_full(),
            (Form::Flat(_), Heads::Apart(4)) => !variant.is_fast(),
            (Form::Flat(_), Heads::List(_) | Heads::Walk(_)) => variant.is_fast(),
            _ => true,
        }
    }

    fn name(self) -> String {
        let form = match self.form {
            Form::Flat(Pdl::Off) => "flat",
            Form::Flat(Pdl::On) => "flat_waiting",
            Form::Flat(Pdl::PositionsReady) => "flat_early",
            Form::Strided => "rotate",
            Form::General => "rotate_general",
        };
        format!("{form}_{}", self.heads)
    }
}

/// One entry of norm, rotation and append: `ROPE_APPEND_ENTRIES` of `kernels/variants.h`. A thread takes so many heads of one
/// tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntry {
    pub form: AppendForm,
    pub heads: usize,
}

impl AppendEntry {
    pub const ALL: [Self; 9] = {
        const fn of(form: AppendForm, heads: usize) -> AppendEntry {
            AppendEntry { form, heads }
        }
        [
            of(AppendForm::Flat, 1),
            of(AppendForm::Flat, 2),
            of(AppendForm::Flat, 4),
            of(AppendForm::FlatEarly, 1),
            of(AppendForm::FlatEarly, 2),
            of(AppendForm::FlatEarly, 4),
            of(AppendForm::Strided, 1),
            of(AppendForm::Strided, 2),
            of(AppendForm::General, 2),
        ]
    };

    /// How the grid counts blocks: see `kernels/append.cuh`.
    pub fn is_by_slices(self) -> bool {
        self.heads > 1
    }

    fn is_in(self, variant: Variant) -> bool {
        match (self.form, self.heads) {
            (AppendForm::Flat | AppendForm::FlatEarly, _) => variant.is_fast(),
            (AppendForm::Strided, 1) => variant.is_full(),
            _ => true,
        }
    }

    fn name(self) -> String {
        let form = match self.form {
            AppendForm::Flat => "append_flat",
            AppendForm::FlatEarly => "append_flat_early",
            AppendForm::Strided => "append",
            AppendForm::General => "append_general",
        };
        format!("{form}_{}", self.heads)
    }
}

/// What a kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    Rotate(Entry),
    CosSin,
    Append(AppendEntry),
}

impl Kernel {
    pub const COUNT: usize = Self::PLAIN + AppendEntry::ALL.len();
    /// Those of the rotation and the table; the others have a module of their own.
    pub const PLAIN: usize = Entry::COUNT + 1;

    pub fn all() -> impl Iterator<Item = Self> {
        let plain = Entry::all().map(Self::Rotate).chain([Self::CosSin]);
        plain.chain(AppendEntry::ALL.into_iter().map(Self::Append))
    }

    /// Those that it is compiled in.
    pub fn variants(self) -> impl Iterator<Item = Variant> {
        Variant::all().filter(move |variant| match self {
            Self::Append(entry) => entry.is_in(*variant),
            Self::Rotate(entry) => entry.is_in(*variant),
            Self::CosSin => true,
        })
    }

    /// Its place in a table of all of them.
    pub fn index(self) -> usize {
        Self::all().position(|kernel| kernel == self).unwrap_or(Self::COUNT - 1)
    }

    /// Its name in a variant.
    pub fn name(self, variant: Variant) -> String {
        let Variant { dtype, joined, bytes } = variant;
        let (dtype, order) = (dtype.name(), if joined { "joined" } else { "split" });
        match self {
            Self::Rotate(entry) => format!("{}_{dtype}_{order}_{bytes}", entry.name()),
            Self::CosSin => format!("cos_sin_{dtype}_{order}_{bytes}"),
            Self::Append(entry) => format!("{}_{dtype}_{order}_{bytes}", entry.name()),
        }
    }
}

/// Element type, order and vector width of a kernel: `ROPE_VARIANTS` of `kernels/variants.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    pub dtype: Dtype,
    /// A vector holds whole pairs; else first and second channels lie in two vectors.
    pub joined: bool,
    /// Bytes of one vector.
    pub bytes: usize,
}

impl Variant {
    pub const COUNT: usize = 3 * 2 * 4;
    /// Pairs of a thread: see kernels/variants.h.
    const MOST_PAIRS: usize = 4;

    pub fn all() -> impl Iterator<Item = Self> {
        Dtype::ALL.into_iter().flat_map(|dtype| {
            [false, true].into_iter().flat_map(move |joined| Self::of(dtype, joined))
        })
    }

    /// Widest first.
    fn of(dtype: Dtype, joined: bool) -> impl Iterator<Item = Self> {
        let pair = if joined { 2 * dtype.size() } else { dtype.size() };
        let variant = move |pairs| Self { dtype, joined, bytes: pairs * pair };
        [Self::MOST_PAIRS, 2, 1].into_iter().map(variant).filter(|variant| variant.bytes <= 16)
    }

    /// Its place in a table of all of them.
    pub fn index(self) -> usize {
        (self.dtype as usize * 2 + usize::from(self.joined)) * 4 + self.bytes.ilog2() as usize - 1
    }

    /// Whether it is the widest of a 16-bit type: those have entries for several tensors, and for lists of heads.
    pub fn is_fast(self) -> bool {
        self.dtype.size() == 2 && Self::of(self.dtype, self.joined).next() == Some(self)
    }

    /// Whether a thread takes as many pairs as any: there are kernels of one strided head.
    pub fn is_full(self) -> bool {
        self.pairs() == Self::MOST_PAIRS
    }

    /// Channel pairs that one thread takes.
    pub fn pairs(self) -> usize {
        self.bytes / self.dtype.size() / if self.joined { 2 } else { 1 }
    }

    /// The same with at most so many pairs: what divides addresses and runs for more divides them for fewer.
    pub fn narrowed(self, pairs: usize) -> Self {
        Self { bytes: self.bytes / (self.pairs() / pairs.min(self.pairs())), ..self }
    }

    /// The widest vectors that divide the run of pairs and every address that has bits of `bits` set,
    /// and the bytes from one pair to the next and from a pair's first channel to its second.
    pub fn widest(dtype: Dtype, pairing: Pairing, pairs: usize, bits: u64) -> (Self, u16, u16) {
        let size = dtype.size();
        let (pair_stride, partner) = match pairing {
            Pairing::HalfSplit => (size, pairs * size),
            Pairing::Interleaved => (2 * size, size),
        };
        // Half-split partners are a run away: what divides the run divides that.
        let variant = Self::widest_that(dtype, pairing, |variant| {
            bits.is_multiple_of(variant.bytes as u64) && pairs.is_multiple_of(variant.pairs())
        });
        (variant, pair_stride as u16, partner as u16)
    }

    /// The widest vectors that fit; of one element, which fit anything, where no others do.
    pub fn widest_that(dtype: Dtype, pairing: Pairing, fits: impl Fn(&Self) -> bool) -> Self {
        let narrow = Self { dtype, joined: false, bytes: dtype.size() };
        Self::of(dtype, pairing == Pairing::Interleaved).find(fits).unwrap_or(narrow)
    }
}

impl Rows {
    /// The bits that the address of any row may have set.
    pub fn address_bits(&self) -> u64 {
        self.first | self.batch as u64 | self.token as u64 | self.head as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    #[test]
    fn kernels_have_names_and_places_of_their_own() {
        let mut names = std::collections::BTreeSet::new();
        let mut places = [false; Variant::COUNT];
        for (i, kernel) in Kernel::all().enumerate() {
            assert_eq!(kernel.index(), i);
            names.extend(kernel.variants().map(|variant| kernel.name(variant)));
        }
        for variant in Variant::all() {
            assert!(!std::mem::replace(&mut places[variant.index()], true), "{variant:?}");
        }
        // Of each form of flat ones 17 + 13 + 4, and of plain ones 12 + 3 * 4; of append's flat ones the fast variants, and
        // of one strided head those of four pairs.
        let (flat, strided, append) = (3 * 34 + 24, 4 * 17, 6 * 4 + 2 * 17 + 5);
        assert_eq!(names.len(), flat + strided + 17 + append);
        assert!(names.contains("rotate_general_2_1_bf16_split_8"));
    }

    #[test]
    fn vectors_fit_alignment_and_run() {
        let pick = |dtype, pairing, rotary_dim: usize, layout: Layout| {
            let bits = Rows::new(dtype, 256, &layout).address_bits();
            let (variant, ..) = Variant::widest(dtype, pairing, rotary_dim / 2, bits);
            (variant.joined, variant.bytes)
        };
        use Dtype::{BF16, F32};
        use Pairing::{HalfSplit, Interleaved};
        let thd = |dim| Layout::thd(7, 3, dim);
        assert_eq!(pick(BF16, HalfSplit, 128, thd(128)), (false, 8));
        assert_eq!(pick(BF16, HalfSplit, 80, thd(80)), (false, 8));
        assert_eq!(pick(BF16, HalfSplit, 20, thd(80)), (false, 4));
        assert_eq!(pick(BF16, HalfSplit, 24, thd(96)), (false, 8));
        assert_eq!(pick(F32, HalfSplit, 128, thd(128)), (false, 16));
        assert_eq!(pick(BF16, Interleaved, 64, thd(192).rotate_from(128)), (true, 16));
        assert_eq!(pick(BF16, Interleaved, 64, thd(192).at(1)), (false, 2));
        assert_eq!(pick(F32, Interleaved, 2, thd(2)), (true, 8));
        // Ten pairs: the widest vectors fit every address, and not the run.
        assert_eq!(pick(BF16, Interleaved, 20, thd(80)), (true, 8));
        // A single token's odd stride does not matter.
        assert_eq!(
            pick(BF16, HalfSplit, 128, Layout::thd(1, 3, 128).with_strides([1, 3, 128])),
            (false, 8)
        );
    }
}
