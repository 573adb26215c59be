//! Encoded records: a byte for the type of keys, then records one behind the other.
#![no_main]

use fkv_formats::record::{KEY_BYTES_MAX, Key, RecordRef, VALUE_BYTES_MAX};
use fkv_formats::schema::KeyType;
use fkv_fuzz::Choices;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let key_type = if choices.u8() & 1 == 0 { KeyType::U64 } else { KeyType::Bytes };
    let mut rest = choices.rest();
    while !rest.is_empty() {
        let (record, len) = match RecordRef::decode(rest, key_type) {
            Ok(read) => read,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        assert!(len > 0 && record.h == record.key.hash() && record.key.key_type() == key_type);
        assert!(record.value.is_none_or(|value| value.len() <= VALUE_BYTES_MAX));
        if let Key::Bytes(key) = record.key {
            assert!(key.len() <= KEY_BYTES_MAX);
        }
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(again, rest[..len], "one record, one encoding");
        for cut in [0, 1, len / 2, len - 1] {
            assert!(RecordRef::decode(&rest[..cut], key_type).is_err(), "no beginning of a record is one");
        }
        rest = &rest[len..];
    }
});
