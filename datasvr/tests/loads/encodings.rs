//! Parquet as real writers make it: every encoding, codec, page version and integer width that the parquet crate
//! writes gives the same records.

use std::sync::Arc;

use arrow_array::types::{Int32Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, BinaryArray, DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeBinaryArray, LargeListArray,
    LargeStringArray, StringArray, StringViewArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field};
use half::f16;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use crate::parquet_files::{file, file_with, floats, ids};
use crate::world::{OwnedKey, World, load, run, table, with};

const ROWS: i64 = 3000;

#[tokio::test(flavor = "multi_thread")]
async fn encodings_codecs_and_page_versions_do_not_change_records() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "i64")).await.expect("created");
    let columns = || -> Vec<(&'static str, ArrayRef)> {
        let values = (0..ROWS).map(|n| if n % 7 == 0 { None } else { Some(n % 100) });
        vec![
            ("pad", floats((0..ROWS).map(|n| n as f32))),
            ("id", ids(0..ROWS)),
            ("v", Arc::new(Int64Array::from_iter(values))),
        ]
    };
    let builder = || WriterProperties::builder().set_data_page_row_count_limit(250).set_write_batch_size(50);
    let mut files = Vec::new();
    let codecs = [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("gzip", Compression::GZIP(GzipLevel::default())),
        ("zstd", Compression::ZSTD(ZstdLevel::default())),
        ("lz4", Compression::LZ4_RAW),
        ("brotli", Compression::BROTLI(parquet::basic::BrotliLevel::default())),
    ];
    for (name, codec) in codecs {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let properties = builder().set_compression(codec).set_writer_version(version).build();
            files.push((format!("{name}-{version:?}"), properties));
        }
    }
    for encoding in [Encoding::PLAIN, Encoding::DELTA_BINARY_PACKED, Encoding::BYTE_STREAM_SPLIT] {
        let mut properties = builder().set_dictionary_enabled(false);
        for column in ["id", "v"] {
            properties = properties.set_column_encoding(column.into(), encoding);
        }
        files.push((format!("{encoding}"), properties.build()));
    }
    files.push(("groups".into(), builder().set_max_row_group_row_count(Some(333)).build()));
    let mut first = None;
    for (at, (name, properties)) in files.into_iter().enumerate() {
        world.put(&format!("{name}.parquet"), &file_with(columns(), properties));
        let task = run(&world, &mut client, load("t", world.url(&format!("{name}.parquet")))).await;
        assert_eq!(task.state, "finished", "{name}: {task:?}");
        let records = world.decode("t", at as u64 + 1).await;
        let expected = first.get_or_insert_with(|| {
            (0..ROWS)
                .filter(|n| n % 7 != 0)
                .map(|n| (OwnedKey::U64(n as u64), (0, (n % 100).to_le_bytes().to_vec())))
                .collect()
        });
        assert!(records == *expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn string_encodings_do_not_change_records() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    let request = fkv_rpc::control::CreateTableRequest { key_type: "bytes".into(), ..table("t", "bytes") };
    client.create_table(request).await.expect("created");
    let keys: Vec<String> = (0..ROWS).map(|n| format!("user/{n:05}")).collect();
    let values: Vec<String> = (0..ROWS).map(|n| "x".repeat((n % 37) as usize)).collect();
    let key_refs: Vec<&str> = keys.iter().map(String::as_str).collect();
    let value_refs: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    let plain = |encoding: Option<Encoding>| {
        let builder = WriterProperties::builder().set_data_page_row_count_limit(100).set_write_batch_size(64);
        match encoding {
            Some(encoding) => builder.set_dictionary_enabled(false).set_encoding(encoding).build(),
            None => builder.build(),
        }
    };
    let strings = || -> ArrayRef { Arc::new(StringArray::from(key_refs.clone())) };
    let binaries = || -> ArrayRef { Arc::new(BinaryArray::from(value_refs.clone())) };
    let dictionary: DictionaryArray<Int32Type> = key_refs.iter().copied().collect();
    let fixed = FixedSizeBinaryArray::try_from_iter(keys.iter().map(|key| key.as_bytes())).expect("one width");
    let shapes: Vec<(&str, ArrayRef, ArrayRef, Option<Encoding>)> = vec![
        ("dictionary-pages", strings(), binaries(), None),
        ("plain", strings(), binaries(), Some(Encoding::PLAIN)),
        ("delta-length", strings(), binaries(), Some(Encoding::DELTA_LENGTH_BYTE_ARRAY)),
        ("delta", strings(), binaries(), Some(Encoding::DELTA_BYTE_ARRAY)),
        (
            "large",
            Arc::new(LargeStringArray::from(key_refs.clone())),
            Arc::new(LargeBinaryArray::from(value_refs.clone())),
            None,
        ),
        ("view", Arc::new(StringViewArray::from(key_refs.clone())), binaries(), None),
        ("dictionary-type", Arc::new(dictionary), binaries(), None),
        ("fixed", Arc::new(fixed), binaries(), None),
    ];
    for (at, (name, key, value, encoding)) in shapes.into_iter().enumerate() {
        world.put(&format!("{name}.parquet"), &file_with(vec![("v", value), ("id", key)], plain(encoding)));
        let task = run(&world, &mut client, load("t", world.url(&format!("{name}.parquet")))).await;
        assert_eq!(task.state, "finished", "{name}: {task:?}");
        let records = world.decode("t", at as u64 + 1).await;
        assert_eq!(records.len() as i64, ROWS, "{name}");
        for (key, value) in keys.iter().zip(&values) {
            assert_eq!(records[&OwnedKey::Bytes(key.clone().into_bytes())].1, value.as_bytes(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn integers_of_every_width_are_keys_and_values() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("t", "i64")).await.expect("created");
    let unsigned: DictionaryArray<UInt64Type> =
        DictionaryArray::new(vec![0u64, 1, 2].into(), Arc::new(UInt64Array::from(vec![1, 2, 3])));
    let columns: Vec<(&str, ArrayRef, [i64; 3])> = vec![
        ("i8", Arc::new(Int8Array::from(vec![-1, 2, i8::MIN])), [-1, 2, i64::from(i8::MIN)]),
        ("i16", Arc::new(Int16Array::from(vec![-1, 2, i16::MIN])), [-1, 2, i64::from(i16::MIN)]),
        ("i32", Arc::new(Int32Array::from(vec![-1, 2, i32::MIN])), [-1, 2, i64::from(i32::MIN)]),
        ("i64", Arc::new(Int64Array::from(vec![-1, 2, i64::MIN])), [-1, 2, i64::MIN]),
        ("u8", Arc::new(UInt8Array::from(vec![0, 2, u8::MAX])), [0, 2, i64::from(u8::MAX)]),
        ("u16", Arc::new(UInt16Array::from(vec![0, 2, u16::MAX])), [0, 2, i64::from(u16::MAX)]),
        ("u32", Arc::new(UInt32Array::from(vec![0, 2, u32::MAX])), [0, 2, i64::from(u32::MAX)]),
        ("u64", Arc::new(UInt64Array::from(vec![0, 2, i64::MAX as u64])), [0, 2, i64::MAX]),
        ("dict", Arc::new(unsigned), [1, 2, 3]),
    ];
    for (at, (name, column, numbers)) in columns.into_iter().enumerate() {
        world.put(&format!("{name}.parquet"), &file(vec![("k", Arc::clone(&column)), ("v", column)]));
        let request = with(load("t", world.url(&format!("{name}.parquet"))), |spec| spec.key_column = "k".into());
        let task = run(&world, &mut client, request).await;
        assert_eq!(task.state, "finished", "{name}: {task:?}");
        let records = world.decode("t", at as u64 + 1).await;
        for number in numbers {
            assert_eq!(records[&OwnedKey::U64(number as u64)].1, number.to_le_bytes(), "{name} {number}");
        }
    }
    // Keys beyond i64 are keys like any other.
    world.put(
        "top.parquet",
        &file(vec![("id", Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef), ("v", ids([1]))]),
    );
    let task = run(&world, &mut client, load("t", world.url("top.parquet"))).await;
    let records = world.decode("t", task.version).await;
    assert!(records.contains_key(&OwnedKey::U64(u64::MAX)));
}

#[tokio::test(flavor = "multi_thread")]
async fn floats_of_every_width_and_lists_of_every_kind_are_vectors() {
    let world = World::new().await;
    let server = world.server("w").await;
    let mut client = world.client(&server);
    let _slots = world.slots(&mut client).await;
    client.create_table(table("scalar", "f32")).await.expect("created");
    client.create_table(table("vector", "f32[2]")).await.expect("created");
    client.create_table(table("half", "f16[2]")).await.expect("created");
    let numbers = [1.5f32, -0.25, 1000.0, f32::INFINITY];
    let halves = || numbers.iter().map(|n| f16::from_f32(*n));
    let scalars: Vec<(&str, ArrayRef)> = vec![
        ("half", Arc::new(Float16Array::from_iter_values(halves()))),
        ("float", Arc::new(Float32Array::from(numbers.to_vec()))),
        ("double", Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| f64::from(*n))))),
    ];
    for (at, (name, column)) in scalars.into_iter().enumerate() {
        world.put(&format!("{name}.parquet"), &file(vec![("id", ids(0..4)), ("v", column)]));
        let task = run(&world, &mut client, load("scalar", world.url(&format!("{name}.parquet")))).await;
        assert_eq!(task.state, "finished", "{name}: {task:?}");
        let records = world.decode("scalar", at as u64 + 1).await;
        for (id, number) in numbers.iter().enumerate() {
            assert_eq!(records[&OwnedKey::U64(id as u64)].1, number.to_le_bytes(), "{name}");
        }
    }
    let doubles: ArrayRef = Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| f64::from(*n))));
    let field = |items: &ArrayRef| Arc::new(Field::new("item", items.data_type().clone(), true));
    let fixed = |items: ArrayRef| -> ArrayRef { Arc::new(FixedSizeListArray::new(field(&items), 2, items, None)) };
    let large = |items: ArrayRef| -> ArrayRef {
        let offsets = arrow_buffer::OffsetBuffer::<i64>::from_lengths([2, 2]);
        Arc::new(LargeListArray::new(field(&items), offsets, items, None))
    };
    let floats: ArrayRef = Arc::new(Float32Array::from(numbers.to_vec()));
    let small: ArrayRef = Arc::new(Float16Array::from_iter_values(halves()));
    let lists: Vec<(&str, ArrayRef)> = vec![
        ("fixed-float", fixed(Arc::clone(&floats))),
        ("fixed-double", fixed(Arc::clone(&doubles))),
        ("large-half", large(small)),
        ("large-double", large(doubles)),
    ];
    for (at, (name, column)) in lists.into_iter().enumerate() {
        assert!(matches!(column.data_type(), DataType::FixedSizeList(..) | DataType::LargeList(_)));
        world.put(&format!("{name}.parquet"), &file(vec![("v", column), ("id", ids(0..2))]));
        for (table, bytes) in [("vector", 4), ("half", 2)] {
            let task = run(&world, &mut client, load(table, world.url(&format!("{name}.parquet")))).await;
            assert_eq!(task.state, "finished", "{name}: {task:?}");
            let records = world.decode(table, at as u64 + 1).await;
            for (id, pair) in numbers.chunks(2).enumerate() {
                let expected: Vec<u8> = match bytes {
                    4 => pair.iter().flat_map(|n| n.to_le_bytes()).collect(),
                    _ => pair.iter().flat_map(|n| f16::from_f32(*n).to_le_bytes()).collect(),
                };
                assert_eq!(records[&OwnedKey::U64(id as u64)].1, expected, "{name} in {table}");
            }
        }
    }
}
