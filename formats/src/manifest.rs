//! Forms: how a version is stored, as an ordered list of layers; and content ids: what a version answers.
//!
//! ```text
//!   form     0  magic "FKVFRM", format version u16
//!            8  table uid u64
//!           16  content id, 32 bytes
//!           48  schema, 8 bytes
//!           56  as_of u32 │ load u16 (thousandths) │ codec u8 │ filter u8
//!           64  number of layers u8 │ 0 × 7
//!           72  layers, the oldest first
//!          end  checksum of all bytes before u64   xxh3_64
//!
//!   layer    objects u32 │ objects │ 2400 part entries of 68 bytes
//!   object   length u64 │ tail length u64 │ path (length as LEB128, bytes)
//!   entry    object u32 │ offset u64 │ length u64 │ records u64 │ digest, 32 bytes │ origin version u64
//!            of an absent part: 0xffff_ffff │ 0…
//! ```
//!
//! A form is itself an object, pinned by its SHA-256 in the version's record. A chain's first layer is a full form, each
//! further one an increment; a full form has one layer.

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use crate::checksum::Origin;
use crate::error::{BuildError, FormatError};
use crate::id::{ContentId, Digest, PART_COUNT, Part, TableUid, Version};
use crate::pack::PackSummary;
use crate::record::{Input, put_blob};
use crate::schema::Schema;
use crate::table::Profile;

pub(crate) const MAGIC: [u8; 6] = *b"FKVFRM";
const WHAT: &str = "form";
const ENTRY_BYTES: usize = 4 + 8 + 8 + 8 + 32 + 8;
/// Most layers of a form: a full one and the increments of the longest chain, with room.
pub const LAYERS_MAX: usize = 64;
/// Longest path of an object.
pub const PATH_BYTES_MAX: usize = 1024;
const ABSENT: u32 = u32::MAX;

/// Where a layer has one part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartEntry {
    /// Index of the object among the layer's.
    pub object: u32,
    /// Where the part's data begins in the object.
    pub offset: u64,
    /// Length of the data in bytes.
    pub len: u64,
    /// Records of the part.
    pub records: u64,
    /// The part's digest.
    pub digest: Digest,
    /// The version that first had this content.
    pub origin: Version,
}

impl PartEntry {
    /// A part without records, which has no data.
    pub const EMPTY: Self =
        Self { object: ABSENT, offset: 0, len: 0, records: 0, digest: Digest([0; 32]), origin: Version(0) };

    /// Whether the part has no records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.object == ABSENT
    }

    /// What its checksums are seeded with, in a table with this uid.
    #[must_use]
    pub const fn origin(&self, uid: TableUid) -> Origin {
        Origin { uid, version: self.origin }
    }
}

/// An object that holds parts of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormObject {
    /// Path below the store's root.
    pub path: String,
    /// Length in bytes.
    pub len: u64,
    /// How many of its last bytes hold directory and footer.
    pub tail_len: u64,
}

/// One layer of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The objects that hold its parts.
    pub objects: Vec<FormObject>,
    /// All [`PART_COUNT`] parts, in order.
    pub parts: Vec<PartEntry>,
}

impl Default for Layer {
    fn default() -> Self {
        Self { objects: Vec::new(), parts: vec![PartEntry::EMPTY; usize::from(PART_COUNT)] }
    }
}

impl Layer {
    /// Adds all parts of a pack stored at `path`.
    ///
    /// # Errors
    /// `PartOrder` if the layer has one of the parts already; `Limit` for an unusable path.
    pub fn add_pack(&mut self, path: &str, pack: &PackSummary) -> Result<(), BuildError> {
        if path.is_empty() || path.len() > PATH_BYTES_MAX {
            return Err(BuildError::Limit(format!(
                "an object's path has 1 to {PATH_BYTES_MAX} bytes, not {}",
                path.len()
            )));
        }
        let object = u32::try_from(self.objects.len()).expect("every pack has a part of its own");
        for part in &pack.directory.parts {
            let entry = &mut self.parts[usize::from(part.part.0)];
            if !entry.is_empty() {
                return Err(BuildError::PartOrder { part: part.part.0, reason: "the layer has it already" });
            }
            *entry = PartEntry {
                object,
                offset: part.offset,
                len: part.len(),
                records: part.records(),
                digest: part.digest,
                origin: pack.directory.origin.version,
            };
        }
        if !pack.directory.parts.is_empty() {
            self.objects.push(FormObject { path: path.to_owned(), len: pack.len, tail_len: pack.tail_len });
        }
        Ok(())
    }

    /// Where `part` is.
    ///
    /// # Panics
    /// If `part` is not below [`PART_COUNT`].
    #[must_use]
    pub fn part(&self, part: Part) -> &PartEntry {
        &self.parts[usize::from(part.0)]
    }

    /// The digests of all parts, in order, for a content id.
    #[must_use]
    pub fn digests(&self) -> Vec<Digest> {
        self.parts.iter().map(|part| part.digest).collect()
    }

    /// Records of all parts.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.parts.iter().map(|part| part.records).sum()
    }

    /// Bytes of the data of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.len).sum()
    }
}

/// How a version is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The table.
    pub uid: TableUid,
    /// What the version answers.
    pub content: ContentId,
    /// The schema it was built under.
    pub schema: Schema,
    /// How its parts were built.
    pub profile: Profile,
    /// Records that expire at or before this Unix second are absent.
    pub as_of: u32,
    /// The layers, the oldest first.
    pub layers: Vec<Layer>,
}

impl Form {
    /// The stored bytes.
    ///
    /// # Panics
    /// If the form breaks a rule that readers check: it is the caller's own.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128 + self.layers.len() * (usize::from(PART_COUNT) * ENTRY_BYTES + 1024));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&Profile::CURRENT.format.to_le_bytes());
        out.extend_from_slice(&self.uid.0.to_le_bytes());
        out.extend_from_slice(&self.content.0);
        out.extend_from_slice(&self.schema.to_bytes());
        out.extend_from_slice(&self.as_of.to_le_bytes());
        out.extend_from_slice(&self.profile.load_permille.to_le_bytes());
        out.extend_from_slice(&[self.profile.codec, self.profile.filter]);
        out.push(u8::try_from(self.layers.len()).expect("a chain is folded long before it has 64 layers"));
        out.extend_from_slice(&[0; 7]);
        for layer in &self.layers {
            out.extend_from_slice(&u32::try_from(layer.objects.len()).expect("at most 2400 objects").to_le_bytes());
            for object in &layer.objects {
                out.extend_from_slice(&object.len.to_le_bytes());
                out.extend_from_slice(&object.tail_len.to_le_bytes());
                put_blob(&mut out, object.path.as_bytes());
            }
            for part in &layer.parts {
                out.extend_from_slice(&part.object.to_le_bytes());
                out.extend_from_slice(&part.offset.to_le_bytes());
                out.extend_from_slice(&part.len.to_le_bytes());
                out.extend_from_slice(&part.records.to_le_bytes());
                out.extend_from_slice(&part.digest.0);
                out.extend_from_slice(&part.origin.0.to_le_bytes());
            }
        }
        let checksum = xxh3_64(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        assert_eq!(Self::decode(&out).as_ref(), Ok(self), "a form written is one that readers accept");
        out
    }

    /// Reads a form.
    ///
    /// # Errors
    /// `Truncated`, `Magic`, `Version`, `Checksum` or `Damaged`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut magic = Input::new(WHAT, bytes);
        if magic.array()? != MAGIC {
            return Err(FormatError::Magic { what: WHAT });
        }
        let (found, known) = (magic.u16()?, Profile::CURRENT.format);
        if found != known {
            return Err(FormatError::Version { what: WHAT, found: u32::from(found), known: u32::from(known) });
        }
        let Some((checked, checksum)) = bytes.split_last_chunk::<8>() else {
            return Err(FormatError::Truncated { what: WHAT, needed: 8, found: bytes.len() as u64 });
        };
        if xxh3_64(checked) != u64::from_le_bytes(*checksum) {
            return Err(FormatError::Checksum { what: WHAT.to_owned() });
        }
        let mut input = Input::new(WHAT, checked);
        input.take(8)?;
        let uid = TableUid(input.u64()?);
        let content = ContentId(input.array()?);
        let schema = Schema::from_bytes(input.array()?)?;
        let as_of = input.u32()?;
        let load_permille = input.u16()?;
        let [codec, filter] = input.array()?;
        let profile = Profile { format: found, load_permille, codec, filter };
        profile.check()?;
        let layer_count = input.byte()?;
        if input.array()? != [0; 7] {
            return Err(FormatError::damaged(WHAT, "reserved bytes are not 0"));
        }
        // Bounds what is allocated below, together with the 163,200 bytes that every layer must bring.
        if !(1..=LAYERS_MAX).contains(&usize::from(layer_count)) {
            return Err(FormatError::damaged(WHAT, format!("{layer_count} layers")));
        }
        let layers = (0..layer_count).map(|_| read_layer(&mut input)).collect::<Result<_, _>>()?;
        if !input.rest().is_empty() {
            return Err(FormatError::damaged(WHAT, "bytes follow the last layer"));
        }
        Ok(Self { uid, content, schema, profile, as_of, layers })
    }

    /// Records of all layers; a key in several layers counts in each.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.layers.iter().map(Layer::records).sum()
    }

    /// Bytes of part data of all layers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.layers.iter().map(Layer::bytes).sum()
    }
}

fn read_layer(input: &mut Input<'_>) -> Result<Layer, FormatError> {
    let damaged = |reason: String| FormatError::damaged(WHAT, reason);
    let count = input.u32()?;
    if count > u32::from(PART_COUNT) {
        return Err(damaged(format!("a layer of {count} objects")));
    }
    let mut objects = Vec::new();
    for _ in 0..count {
        let (len, tail_len) = (input.u64()?, input.u64()?);
        let path = input.blob(PATH_BYTES_MAX)?;
        let path = std::str::from_utf8(path).map_err(|_| damaged("an object's path is not UTF-8".to_owned()))?;
        if path.is_empty() || tail_len > len {
            return Err(damaged(format!("object `{path}` of {len} bytes with a tail of {tail_len}")));
        }
        objects.push(FormObject { path: path.to_owned(), len, tail_len });
    }
    let mut parts = Vec::with_capacity(usize::from(PART_COUNT));
    for number in 0..PART_COUNT {
        let entry = PartEntry {
            object: input.u32()?,
            offset: input.u64()?,
            len: input.u64()?,
            records: input.u64()?,
            digest: Digest(input.array()?),
            origin: Version(input.u64()?),
        };
        if entry.object == ABSENT {
            if entry != PartEntry::EMPTY {
                return Err(damaged(format!("part {number} is absent, but described")));
            }
        } else {
            // Part data ends before the tail of an object that is there, and no sum wraps. Records are fewer than
            // bytes in every kind of table, so that sums over all parts stay below 2^64 too.
            let end = entry.offset.checked_add(entry.len);
            let object = objects.get(entry.object as usize);
            let fits = object.zip(end).is_some_and(|(object, end)| end <= object.len - object.tail_len);
            if !fits || entry.len == 0 || entry.records == 0 || entry.records > entry.len || entry.len >= 1 << 50 {
                return Err(damaged(format!("the entry of part {number} contradicts its object")));
            }
        }
        parts.push(entry);
    }
    Ok(Layer { objects, parts })
}

/// The content id of a full load.
///
/// # Panics
/// If there is not one digest for every part.
#[must_use]
pub fn content_id_full(uid: TableUid, schema: &Schema, as_of: u32, digests: &[Digest]) -> ContentId {
    let mut sha = Sha256::new();
    sha.update(b"featurekv content full 1");
    sha.update(uid.0.to_le_bytes());
    sha.update(schema.to_bytes());
    finish(sha, as_of, digests)
}

/// The content id of an increment on the content `parent`.
///
/// # Panics
/// If there is not one digest for every part.
#[must_use]
pub fn content_id_increment(parent: &ContentId, as_of: u32, digests: &[Digest]) -> ContentId {
    let mut sha = Sha256::new();
    sha.update(b"featurekv content increment 1");
    sha.update(parent.0);
    finish(sha, as_of, digests)
}

fn finish(mut sha: Sha256, as_of: u32, digests: &[Digest]) -> ContentId {
    assert_eq!(digests.len(), usize::from(PART_COUNT), "one digest for every part");
    sha.update(as_of.to_le_bytes());
    for digest in digests {
        sha.update(digest.0);
    }
    ContentId(sha.finalize().into())
}
