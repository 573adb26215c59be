//! Forms. One has 163,200 bytes a layer, nearly all of them parts that are absent, so inputs say what differs.
//!
//! ```text
//!   flags u8 │ fields, 64 bytes from the table uid on │ layers │ what follows the last one
//!
//!   layer    objects u8 (255: as u32 follows) │ objects │ entries u8 │ entries: part u16 │ 68 bytes
//!   object   length u64 │ tail length u64 │ path length u8 │ path
//!   flags    bit 0: raw, the rest is the form; bit 1: unsealed; bit 2: magic and version come first
//! ```
#![no_main]

use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::manifest::{Form, content_id_full, content_id_increment};
use fkv_fuzz::Choices;
use xxhash_rust::xxh3::xxh3_64;

const ENTRY_BYTES: usize = 68;
/// More than readers accept, so that their own limit is met.
const LAYERS_MAX: u8 = 66;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let flags = choices.u8();
    let mut form = if flags & 1 != 0 { choices.rest().to_vec() } else { written(flags, &mut choices) };
    if flags & 2 == 0 {
        if flags & 1 != 0 && form.len() >= 8 {
            form.truncate(form.len() - 8);
        }
        let sum = xxh3_64(&form);
        form.extend_from_slice(&sum.to_le_bytes());
    }
    match Form::decode(&form) {
        Ok(read) => check(&read, &form),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn written(flags: u8, choices: &mut Choices<'_>) -> Vec<u8> {
    let mut form = b"FKVFRM\x01\x00".to_vec();
    if flags & 4 != 0 {
        form.copy_from_slice(&choices.array::<8>());
    }
    let fields: [u8; 64] = choices.array();
    form.extend_from_slice(&fields);
    for _ in 0..fields[56].min(LAYERS_MAX) {
        // Layers without a byte of their own would only cost time.
        if choices.is_empty() {
            break;
        }
        let count = choices.u8();
        let announced = if count == 255 { choices.u32() } else { u32::from(count) };
        form.extend_from_slice(&announced.to_le_bytes());
        for _ in 0..announced.min(255) {
            form.extend_from_slice(&choices.array::<16>());
            let path_len = choices.u8();
            form.push(path_len);
            form.extend_from_slice(choices.take(usize::from(path_len)));
        }
        let parts = form.len();
        form.resize(parts + usize::from(PART_COUNT) * ENTRY_BYTES, 0);
        form[parts..].chunks_mut(ENTRY_BYTES).for_each(|entry| entry[..4].fill(0xff));
        for _ in 0..choices.u8() {
            let part = usize::from(choices.u16() % PART_COUNT);
            form[parts + part * ENTRY_BYTES..][..ENTRY_BYTES].copy_from_slice(&choices.array::<ENTRY_BYTES>());
        }
    }
    form.extend_from_slice(choices.rest());
    form
}

fn check(read: &Form, form: &[u8]) {
    assert_eq!(read.encode(), form, "one form, one encoding");
    assert!(read.records() <= read.bytes());
    for layer in &read.layers {
        assert_eq!(layer.parts.len(), usize::from(PART_COUNT));
        for part in (0..PART_COUNT).map(Part) {
            let entry = layer.part(part);
            if !entry.is_empty() {
                let object = &layer.objects[entry.object as usize];
                assert!(entry.offset + entry.len + object.tail_len <= object.len && entry.len > 0);
            }
        }
    }
    let digests = read.layers[0].digests();
    let full = content_id_full(read.uid, &read.schema, read.as_of, &digests);
    assert_ne!(full, content_id_increment(&read.content, read.as_of, &digests));
}
