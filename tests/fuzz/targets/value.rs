//! Stored values: a schema of 8 bytes, then the bytes of a value.
#![no_main]

use fkv_formats::schema::{Schema, Storage, ValueType};
use fkv_formats::value::{Value, ValueCodec};
use fkv_fuzz::Choices;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let encoded: [u8; 8] = choices.array();
    let schema = match Schema::from_bytes(encoded) {
        Ok(schema) => schema,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!((schema.to_bytes(), schema.validate()), (encoded, Ok(())));
    assert_eq!(schema.value.to_string().parse(), Ok(schema.value));
    let (codec, stored) = (ValueCodec::new(&schema), choices.rest());
    let mut served = vec![7];
    match codec.serve(stored, &mut served) {
        Ok(()) => served.remove(0),
        Err(_) => {
            // As it is, no value; as many bytes as it takes, always one.
            assert_eq!(served, [7]);
            let Some(width) = codec.stored_width() else { return };
            assert_ne!(width, stored.len());
            codec.serve(&vec![0x55; width], &mut served).expect("bytes of the stored width");
            served.remove(0)
        }
    };
    assert!(codec.served_width().is_none_or(|width| width == served.len()));
    let value = codec.decode(&served).expect("what is served can be read");
    assert!(!value.to_string().is_empty());
    let mut again = Vec::new();
    let is_number = match &value {
        Value::Bytes(bytes) => codec.encode_bytes(bytes, &mut again).map(|()| true),
        Value::I64(number) => codec.encode_i64(*number, &mut again).map(|()| true),
        Value::F32(numbers) => {
            codec.encode_f32s(numbers, &mut again).map(|_| numbers.iter().all(|number| !number.is_nan()))
        }
        Value::F16(numbers) => {
            let wide: Vec<f32> = numbers.iter().map(|number| number.to_f32()).collect();
            codec.encode_f32s(&wide, &mut again).map(|_| wide.iter().all(|number| !number.is_nan()))
        }
    };
    // NaNs that are narrowed all become one.
    let narrows = schema.storage == Storage::F16 || matches!(schema.value, ValueType::F16(_));
    let is_stored = stored.len() == again.len();
    assert!(is_number.is_ok(), "what was stored fits");
    if is_stored && codec.serve(stored, &mut Vec::new()).is_ok() && (is_number == Ok(true) || !narrows) {
        assert_eq!(again, stored, "one value, one encoding");
    }
});
