//! A version of a table in a `file://` store, as a load would have written it.

use bytes::Bytes;
use fkv_formats::checksum::{Origin, sha256};
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_formats::id::{Part, TableUid, Version};
use fkv_formats::manifest::{Form, Layer, content_id_full};
use fkv_formats::pack::PackWriter;
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::Schema;
use fkv_formats::table::{PartLayout, Profile};
use fkv_meta::record::{FormKind, FormRef, ObjectRef, VersionKind, VersionRecord, VersionState};
use fkv_store::object::Store;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

/// What the checksums of all parts are seeded with.
pub(crate) const ORIGIN: Origin = Origin { uid: TableUid(1), version: Version(1) };
/// Parts of one pack.
const PACK_PARTS: u16 = 100;

/// A version that was written.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) record: VersionRecord,
    pub(crate) layouts: Vec<PartLayout>,
}

/// Writes packs and the form of a table with the `u64` keys `0..count`; `value` appends the value of a key.
pub(crate) async fn write(
    store: &Store,
    schema: &Schema,
    profile: Profile,
    count: usize,
    value: impl Fn(u64, &mut Vec<u8>),
) -> Result<Stored, String> {
    let mut hashes: Vec<u64> = (0..count as u64).into_par_iter().map(hash_u64).collect();
    hashes.par_sort_unstable();
    let mut layer = Layer::default();
    let mut layouts = Vec::new();
    let mut bytes = 0;
    for hashes in hashes.chunk_by(|a, b| part_of(*a).0 / PACK_PARTS == part_of(*b).0 / PACK_PARTS) {
        let mut pack = PackWriter::new(Vec::new(), ORIGIN, schema, profile).map_err(|error| error.to_string())?;
        for hashes in hashes.chunk_by(|a, b| part_of(*a) == part_of(*b)) {
            let part: Part = part_of(hashes[0]);
            let mut values = Vec::new();
            let mut ends = Vec::with_capacity(hashes.len());
            for h in hashes {
                value(unhash_u64(*h), &mut values);
                ends.push(values.len());
            }
            let mut start = 0;
            let mut records = Vec::with_capacity(hashes.len());
            for (h, end) in hashes.iter().zip(ends) {
                let key = Key::U64(unhash_u64(*h));
                records.push(RecordRef { h: *h, key, expiry: 0, value: Some(&values[start..end]) });
                start = end;
            }
            pack.add_part(part, &records).map_err(|error| error.to_string())?;
        }
        let (summary, object) = pack.finish().map_err(|error| error.to_string())?;
        let path = format!("packs/{:04}", layer.objects.len());
        bytes += object.len() as u64;
        for part in &summary.directory.parts {
            layouts.push(part.layout().map_err(|error| error.to_string())?);
        }
        store.put(&path, Bytes::from(object)).await.map_err(|error| error.to_string())?;
        layer.add_pack(&path, &summary).map_err(|error| error.to_string())?;
    }
    let content = content_id_full(ORIGIN.uid, schema, 0, &layer.digests());
    let form =
        Form { uid: ORIGIN.uid, content, schema: schema.clone(), profile, as_of: 0, layers: vec![layer] }.encode();
    let object = ObjectRef { path: "form".to_owned(), len: form.len() as u64, sha256: sha256(&form) };
    store.put("form", form.into()).await.map_err(|error| error.to_string())?;
    let record = VersionRecord {
        version: ORIGIN.version,
        content,
        kind: VersionKind::Full,
        state: VersionState::Live,
        schema: schema.clone(),
        as_of: 0,
        task: None,
        created_ms: 0,
        rows: count as u64,
        bytes,
        forms: vec![FormRef { kind: FormKind::Full, object }],
        pins: Vec::new(),
        references: 0,
    };
    Ok(Stored { record, layouts })
}
