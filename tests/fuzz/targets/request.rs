//! The packed body of a BatchGet request: the bytes are the body.
#![no_main]

use bytes::Bytes;
use fkv_fuzz::packed::{KEY_BYTES_MAX, KEYS_MAX, Keys, Request, RequestWriter, SECTIONS_MAX};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let body = Bytes::copy_from_slice(bytes);
    let request = match Request::parse(body.clone()) {
        Ok(request) => request,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let sections = request.sections();
    assert!((1..=SECTIONS_MAX).contains(&sections.len()) && request.key_count() <= KEYS_MAX);
    let mut writer = RequestWriter::new(request.header(), body.len());
    let mut keys_seen = 0;
    for section in sections {
        keys_seen += section.keys.len();
        assert_eq!(section.keys.is_empty(), section.keys.len() == 0);
        match section.keys {
            Keys::U64(keys) => {
                for (index, key) in keys.iter().enumerate() {
                    assert_eq!((keys.get(index), keys.packed()[index]), (key, key.to_le_bytes()));
                }
                writer.u64_section(section.header, keys.iter());
            }
            Keys::Bytes(keys) => {
                for (index, key) in keys.iter().enumerate() {
                    assert!(key.len() <= KEY_BYTES_MAX && keys.get(index) == key);
                }
                writer.bytes_section(section.header, keys.iter().map(<[u8]>::len).sum(), keys.iter());
            }
        }
    }
    assert_eq!(keys_seen, request.key_count());
    assert_eq!(writer.finish(), body, "one request, one body");
});
