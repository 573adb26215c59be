//! Where a batch lookup finds the lines of any part: eight bytes a part.
//!
//! ```text
//!   word   address of the part's first index line / 64, 42 bits │ number of buckets, 22 bits
//!   home   = address + 64 · ((f · buckets) >> 64); the line behind it is there too
//! ```
//!
//! A lookup reads the word of a random part for every key. 2400 of them take 19 KiB and stay in the first-level cache;
//! with descriptors that do not, each of these reads occupies one of the few buffers that the lines themselves are
//! waited for in, and a batch takes a quarter longer. What only some keys need stands in arrays of its own.
//!
//! Parts that cannot be read this way (absent, sorted, of another format than the others) have the word of a decoy: a
//! line without records that sends the lookup on, to [`Lines::is_decoy`].

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_i64gather_epi64, _mm512_mul_epu32, _mm512_set1_epi64,
    _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512,
};
use std::marker::PhantomData;

use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::route::{part_of, place};
use fkv_formats::table::mem::{IndexLine, LineFormat, MemLayout};

use crate::lookup::{Level, prefetch_line};

const LINE_BYTES: usize = size_of::<IndexLine>();
/// Most lines of one record to ask for: the hardware follows from there.
const RECORD_LINES_MAX: usize = 8;
const BUCKET_BITS: u32 = 22;
const BUCKETS_MASK: u64 = (1 << BUCKET_BITS) - 1;
const ADDRESS_BITS: u32 = u64::BITS - BUCKET_BITS + LINE_BYTES.trailing_zeros();
const PARTS: usize = PART_COUNT as usize;

/// A line and the one behind it.
#[repr(align(64))]
struct Decoy([IndexLine; 2]);

/// Its meta byte: no slot in use, a reach of 7.
const SENDS_ON: u8 = 0xe0;
static SLOW: Decoy = {
    let mut lines = [[0; LINE_BYTES]; 2];
    lines[0][LINE_BYTES - 1] = SENDS_ON;
    Decoy(lines)
};
static EMPTY: Decoy = Decoy([[0; LINE_BYTES]; 2]);

/// The index lines of an image's parts.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    /// That of the first part added; parts of another one are slow.
    format: Option<LineFormat>,
    /// The cache to ask lines to.
    level: Level,
    words: Box<[u64; PARTS]>,
    /// Addresses of the parts' images, where offsets of records count from, and of their ends.
    images: Box<[(usize, usize); PARTS]>,
}

/// The home line of a key, with the line behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home<'a> {
    line: *const IndexLine,
    lines: PhantomData<&'a IndexLine>,
}

impl Lines {
    pub(crate) fn new() -> Self {
        let slow = word(SLOW.0.as_ptr(), 1).unwrap_or_else(|| unreachable!("user addresses have 48 bits"));
        Self { format: None, level: Level::best(), words: Box::new([slow; PARTS]), images: Box::new([(0, 0); PARTS]) }
    }

    /// Adds a part without records.
    pub(super) fn add_empty(&mut self, part: Part) {
        if let Some(word) = word(EMPTY.0.as_ptr(), 1) {
            self.words[usize::from(part.0)] = word;
        }
    }

    /// Adds a part whose image is `image`.
    ///
    /// # Safety
    /// `image` must stay where it is, unchanged, as long as this value or a clone of it is used, and be exactly as long
    /// as `layout` says.
    pub(super) unsafe fn add(&mut self, part: Part, image: &[u8], layout: &MemLayout) {
        let Some(format) = layout.line_format() else { return };
        let index = usize::try_from(layout.index_offset()).ok().and_then(|at| image.get(at..));
        let Some(lines) = index.map(|index| index.as_chunks::<LINE_BYTES>().0) else { return };
        // What the layout was validated for, once more where it is relied upon: each home has a line behind it.
        if layout.buckets() == 0 || layout.buckets() as usize >= lines.len() {
            return;
        }
        if *self.format.get_or_insert(format) != format {
            return;
        }
        if let Some(word) = word(lines.as_ptr(), layout.buckets()) {
            let at = usize::from(part.0);
            self.words[at] = word;
            let range = image.as_ptr_range();
            self.images[at] = (range.start.expose_provenance(), range.end.expose_provenance());
        }
    }

    /// The format of all lines that homes lead to; `None` if they lead to none.
    pub(crate) const fn format(&self) -> Option<LineFormat> {
        self.format
    }

    /// The cache to ask lines to.
    #[inline(always)]
    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    /// The home of a key with hash `h`.
    #[inline(always)]
    pub(crate) fn home(&self, h: u64) -> Home<'_> {
        let word = self.words[usize::from(part_of(h).0)];
        let bucket = (u128::from(place(h)) * u128::from(word & BUCKETS_MASK)) >> u64::BITS;
        // The bucket is below the buckets; addresses are below 2^48.
        let address = ((word >> BUCKET_BITS).wrapping_add(bucket as u64) << LINE_BYTES.trailing_zeros()) as usize;
        Home { line: std::ptr::with_exposed_provenance(address), lines: PhantomData }
    }

    /// The homes of eight keys.
    ///
    /// Written out, because the compiler does not always see that eight keys can be computed at once: left to it, the lookup
    /// of inline values did them one by one.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(crate) fn homes_of_8<'a>(&'a self, hashes: __m512i, homes: &mut [Home<'a>; 8]) {
        let count = _mm512_set1_epi64(i64::from(PART_COUNT));
        // h · 2400 in two halves, the upper with what is carried: no product reaches 2^64. Multiplications take the lower
        // halves of their factors.
        let low = _mm512_mul_epu32(hashes, count);
        let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(hashes), count);
        let high = _mm512_add_epi64(high, _mm512_srli_epi64::<32>(low));
        // SAFETY: h is below 2^64, so that the part, the whole of h · 2400 / 2^64, is below 2400, the length.
        let words = unsafe { _mm512_i64gather_epi64::<8>(_mm512_srli_epi64::<32>(high), self.words.as_ptr().cast()) };
        let buckets = _mm512_and_si512(words, _mm512_set1_epi64(BUCKETS_MASK as i64));
        // As in `home`: the halves of the place times the buckets, which have 22 bits.
        let bucket = _mm512_srli_epi64::<32>(_mm512_mul_epu32(low, buckets));
        let bucket = _mm512_srli_epi64::<32>(_mm512_add_epi64(_mm512_mul_epu32(high, buckets), bucket));
        let lines = _mm512_add_epi64(_mm512_srli_epi64::<BUCKET_BITS>(words), bucket);
        let mut addresses = [0_u64; 8];
        // SAFETY: 64 bytes are written to an array of 64.
        unsafe {
            let addresses = addresses.as_mut_ptr().cast();
            _mm512_storeu_si512(addresses, _mm512_slli_epi64::<{ LINE_BYTES.trailing_zeros() }>(lines));
        }
        for (home, address) in homes.iter_mut().zip(addresses) {
            *home = Home { line: std::ptr::with_exposed_provenance(address as usize), lines: PhantomData };
        }
    }

    /// Whether `home` belongs to no part: what is known of its key must be asked of the image.
    #[inline]
    pub(crate) fn is_decoy(&self, home: Home<'_>) -> bool {
        std::ptr::eq(home.line, SLOW.0.as_ptr())
    }

    /// The lines from the second behind the home of `h` to the end of the part.
    #[inline]
    pub(crate) fn beyond<'a>(&'a self, home: Home<'a>, h: u64) -> &'a [IndexLine] {
        let first = (home.line as usize).wrapping_add(2 * LINE_BYTES);
        let bytes = self.images[usize::from(part_of(h).0)].1.saturating_sub(first);
        if bytes == 0 {
            return &[];
        }
        // SAFETY: `home` came from `Self::home` for the same `h` (callers' only source of homes), so it lies in the
        // part's index if the part has an end, which `add` took from the image; lines from there to the end are in it.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(first), bytes / LINE_BYTES) }
    }

    /// The image of the part of `h`; empty for a decoy.
    #[inline]
    pub(crate) fn image(&self, h: u64) -> &[u8] {
        let (start, end) = self.images[usize::from(part_of(h).0)];
        if start == end {
            return &[];
        }
        // SAFETY: `add` took both from one image, which stays there as long as `self` is used (its caller's promise).
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), end - start) }
    }
}

impl Lines {
    /// Asks for the `len` bytes at offset `record` in the image of the part of `h`, or the first few lines of them.
    #[inline(always)]
    pub(crate) fn prefetch_record(&self, h: u64, record: u64, len: usize) {
        let (start, _) = self.images[usize::from(part_of(h).0)];
        let first = start.wrapping_add(record as usize);
        let level = self.level;
        let ask = |behind: usize| prefetch_line(level, std::ptr::without_provenance(first.wrapping_add(behind)));
        // As many as the bytes take at least, and the one that they end in: no branch that depends on where they begin.
        let whole = len.clamp(1, RECORD_LINES_MAX * LINE_BYTES);
        for line in 0..whole.div_ceil(LINE_BYTES) {
            ask(line * LINE_BYTES);
        }
        ask(whole - 1);
    }
}

impl<'a> Home<'a> {
    /// Any home, to begin arrays with.
    pub(crate) fn nowhere() -> Self {
        Self { line: EMPTY.0.as_ptr(), lines: PhantomData }
    }

    /// Asks for the line and the one behind it.
    #[inline(always)]
    pub(crate) fn prefetch_both(self, level: Level) {
        self.prefetch_behind(level, 0);
        self.prefetch_behind(level, 1);
    }

    /// Asks for the line `ahead` lines behind, if it is there or not.
    #[inline(always)]
    pub(crate) fn prefetch_behind(self, level: Level, ahead: u8) {
        prefetch_line(level, self.line.wrapping_add(usize::from(ahead)).cast());
    }

    /// The line.
    #[inline(always)]
    pub(crate) fn line(self) -> &'a IndexLine {
        // SAFETY: a home is made by `Lines::home` or `homes_of_8` from a word that `Lines::add` or `Lines::new` made of a slice of lines
        // and a number of buckets below its length, the bucket being below that number: the line and the one behind
        // it are in the slice, which stays there for 'a, the borrow of `Lines`. `nowhere` is two lines as well.
        unsafe { &*self.line }
    }

    /// The line behind it.
    #[inline(always)]
    pub(crate) fn next(self) -> &'a IndexLine {
        // SAFETY: as for `line`.
        unsafe { &*self.line.add(1) }
    }

    /// The `V` bytes at a place in the two lines.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn value_at<const V: usize>(self, place: u8) -> [u8; V] {
        debug_assert!(usize::from(place) + V <= 2 * LINE_BYTES, "the value ends within the lines");
        // SAFETY: both lines are there, as for `line`, and places are below 128 (`Places` of the lookup ends every value within
        // its line).
        unsafe { self.line.cast::<u8>().add(usize::from(place)).cast::<[u8; V]>().read() }
    }

    /// One of them, without a branch.
    #[inline(always)]
    pub(crate) fn line_or_next(self, is_next: bool) -> &'a IndexLine {
        // SAFETY: as for `line`.
        unsafe { &*self.line.add(usize::from(is_next)) }
    }
}

/// The word of lines at an address; `None` if either number is too large for it.
fn word(lines: *const IndexLine, buckets: u32) -> Option<u64> {
    let address = lines.expose_provenance() as u64;
    let fits =
        address.is_multiple_of(LINE_BYTES as u64) && address >> ADDRESS_BITS == 0 && u64::from(buckets) <= BUCKETS_MASK;
    fits.then_some(((address / LINE_BYTES as u64) << BUCKET_BITS) | u64::from(buckets))
}
