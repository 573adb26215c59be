//! Binding: from the column names of a load and the schema of a file to what is decoded, and how.
//!
//! | table | accepted column types |
//! |---|---|
//! | key `u64` | int8 … int64 (sign-extended, then reinterpreted), uint8 … uint64 |
//! | key `bytes` | string, binary, fixed-size binary |
//! | value `bytes` | string, binary, fixed-size binary |
//! | value `i64` | int8 … int64, uint8 … uint64 |
//! | value `f32`, `f16` | integers and floats; lists of them with one element |
//! | value `f32[d]`, `f16[d]` | one list column of integers or floats, or d numeric columns |
//! | expiry | int8 … int64, uint8 … uint64 |
//! | delete | bool |

use arrow_schema::{DataType, Schema as ArrowSchema, TimeUnit};
use fkv_formats::schema::{KeyType, Schema, ValueType};
use fkv_meta::record::LoadSpec;

use super::error::{InputError, WrongType};

/// Which top-level columns of a file are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    /// Indices of the projected columns in the file's schema, ascending and distinct.
    pub(crate) roots: Vec<usize>,
    /// Place of the key column among `roots`.
    pub(crate) key: usize,
    /// Places of the value columns among `roots`.
    pub(crate) values: Vec<usize>,
    /// Place of the expiry column among `roots`.
    pub(crate) expiry: Option<usize>,
    /// Place of the delete column among `roots`.
    pub(crate) deletes: Option<usize>,
}

const INTEGERS: &str = "int8, int16, int32, int64, uint8, uint16, uint32 or uint64";
const STRINGS: &str = "string, large_string, binary, large_binary or fixed_size_binary";
const NUMBERS: &str = "float, double, halffloat or an integer type";
const VECTORS: &str = "a list, large list or fixed-size list of float, double, halffloat or an integer type";

/// Finds the columns of a load in the schema of `file` and checks their types.
///
/// # Errors
/// A column is missing, ambiguous or of a wrong type.
pub(crate) fn bind(file: &str, columns: &ArrowSchema, spec: &LoadSpec, table: &Schema) -> Result<Binding, InputError> {
    let key = find(file, columns, &spec.key_column)?;
    let wrong = |role, at: usize, declared: String, accepted| {
        let field = columns.field(at);
        let (column, found) = (field.name().clone(), type_name(field.data_type()));
        InputError::WrongType(Box::new(WrongType { file: file.to_owned(), role, column, found, declared, accepted }))
    };
    let key_type = columns.field(key).data_type();
    let (key_fits, accepted) = match table.key {
        KeyType::U64 => (key_type.is_integer(), INTEGERS),
        KeyType::Bytes => (is_string(key_type), STRINGS),
    };
    if !key_fits {
        return Err(wrong("key", key, format!("key type {}", table.key), accepted));
    }
    let mut values = Vec::with_capacity(spec.value_columns.len());
    for name in &spec.value_columns {
        let at = find(file, columns, name)?;
        let found = columns.field(at).data_type();
        let (fits, accepted) = match table.value {
            ValueType::Bytes => (is_string(found), STRINGS),
            ValueType::I64 => (found.is_integer(), INTEGERS),
            ValueType::F32(_) | ValueType::F16(_) if spec.value_columns.len() > 1 => (is_number(found), NUMBERS),
            ValueType::F32(1) | ValueType::F16(1) => (is_number(found) || is_vector(found), NUMBERS),
            ValueType::F32(_) | ValueType::F16(_) => (is_vector(found), VECTORS),
        };
        if !fits {
            return Err(wrong("value", at, format!("value type {}", table.value), accepted));
        }
        values.push(at);
    }
    let mut expiry = None;
    if let Some(name) = &spec.expiry_column {
        let at = find(file, columns, name)?;
        if !columns.field(at).data_type().is_integer() {
            return Err(wrong("expiry", at, "a time to live".into(), INTEGERS));
        }
        expiry = Some(at);
    }
    let mut deletes = None;
    if let Some(name) = &spec.delete_column {
        let at = find(file, columns, name)?;
        if *columns.field(at).data_type() != DataType::Boolean {
            return Err(wrong("delete", at, "a load in which rows delete keys".into(), "bool"));
        }
        deletes = Some(at);
    }
    let mut roots: Vec<usize> = values.iter().copied().chain([key]).chain(expiry).chain(deletes).collect();
    roots.sort_unstable();
    roots.dedup();
    let place = |at: usize| roots.partition_point(|root| *root < at);
    let (key, expiry, deletes) = (place(key), expiry.map(place), deletes.map(place));
    let values = values.into_iter().map(place).collect();
    Ok(Binding { roots, key, values, expiry, deletes })
}

fn find(file: &str, columns: &ArrowSchema, name: &str) -> Result<usize, InputError> {
    let mut found = columns.fields().iter().enumerate().filter(|(_, field)| field.name() == name).map(|(at, _)| at);
    match (found.next(), found.count()) {
        (Some(at), 0) => Ok(at),
        (Some(_), more) => {
            Err(InputError::AmbiguousColumn { file: file.to_owned(), column: name.to_owned(), count: more + 1 })
        }
        (None, _) => {
            let available = available(columns.fields().iter().map(|field| field.name().as_str()));
            Err(InputError::MissingColumn { file: file.to_owned(), column: name.to_owned(), available })
        }
    }
}

/// Column names for a message; thousands of columns do not flood it.
pub(crate) fn available<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 50;
    const CHARS: usize = 100;
    let count = names.len();
    let shown = names.take(SHOWN).map(|name| format!("`{}`", name.chars().take(CHARS).collect::<String>()));
    let shown: Vec<String> = shown.collect();
    match count {
        0 => "none".into(),
        count if count > SHOWN => format!("{} and {} more", shown.join(", "), count - SHOWN),
        _ => shown.join(", "),
    }
}

const fn is_string(found: &DataType) -> bool {
    matches!(
        found,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_)
    )
}

fn is_number(found: &DataType) -> bool {
    found.is_integer() || matches!(found, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

fn is_vector(found: &DataType) -> bool {
    match found {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_number(item.data_type())
        }
        _ => false,
    }
}

/// A type's name as data engineers know it from Arrow and pyarrow.
fn type_name(found: &DataType) -> String {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    };
    match found {
        DataType::Boolean => "bool".into(),
        DataType::Utf8 => "string".into(),
        DataType::LargeUtf8 => "large_string".into(),
        DataType::Binary => "binary".into(),
        DataType::LargeBinary => "large_binary".into(),
        DataType::FixedSizeBinary(width) => format!("fixed_size_binary[{width}]"),
        DataType::Float16 => "halffloat".into(),
        DataType::Float32 => "float".into(),
        DataType::Float64 => "double".into(),
        DataType::Date32 => "date32".into(),
        DataType::Date64 => "date64".into(),
        DataType::Time32(of) => format!("time32[{}]", unit(of)),
        DataType::Time64(of) => format!("time64[{}]", unit(of)),
        DataType::Timestamp(of, None) => format!("timestamp[{}]", unit(of)),
        DataType::Timestamp(of, Some(zone)) => format!("timestamp[{}, tz={zone}]", unit(of)),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::List(item) => format!("list<{}>", type_name(item.data_type())),
        DataType::LargeList(item) => format!("large_list<{}>", type_name(item.data_type())),
        DataType::FixedSizeList(item, len) => format!("fixed_size_list<{}>[{len}]", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|field| format!("{}: {}", field.name(), type_name(field.data_type()))).collect();
            format!("struct<{}>", fields.join(", "))
        }
        DataType::Map(..) => "map".into(),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Field;
    use fkv_formats::schema::{F16Overflow, Storage, TableKind};
    use fkv_meta::record::{Duplicates, InputFormat, LoadMode, NullPolicy};

    use super::*;

    fn table(key: KeyType, value: ValueType) -> Schema {
        let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
        Schema { kind: TableKind::Mem, key, value, storage, f16_overflow, ttl: true }
    }

    fn spec(key: &str, values: &[&str], expiry: Option<&str>) -> LoadSpec {
        LoadSpec {
            inputs: vec!["file:///in".into()],
            mode: LoadMode::Full,
            format: InputFormat::Parquet,
            key_column: key.into(),
            value_columns: values.iter().map(|name| (*name).into()).collect(),
            expiry_column: expiry.map(Into::into),
            delete_column: None,
            nulls: NullPolicy::Skip,
            duplicates: Duplicates::Last,
            max_bad_rows: 0,
            require_success: false,
        }
    }

    fn columns() -> ArrowSchema {
        let floats = DataType::List(Arc::new(Field::new("element", DataType::Float32, true)));
        ArrowSchema::new(vec![
            Field::new("v", DataType::Float64, true),
            Field::new("until", DataType::Int64, true),
            Field::new("id", DataType::Int32, true),
            Field::new("emb", floats, true),
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("name", DataType::Utf8, true),
            Field::new("twice", DataType::Utf8, true),
            Field::new("twice", DataType::Utf8, true),
            Field::new("gone", DataType::Boolean, true),
        ])
    }

    #[test]
    fn columns_are_found_by_name_in_any_order() {
        let table = table(KeyType::U64, ValueType::F32(2));
        let bound = bind("f", &columns(), &spec("id", &["v", "until"], Some("until")), &table).expect("binds");
        assert_eq!(bound, Binding { roots: vec![0, 1, 2], key: 2, values: vec![0, 1], expiry: Some(1), deletes: None });
        let bound = bind("f", &columns(), &spec("id", &["emb"], None), &table).expect("binds");
        assert_eq!(bound, Binding { roots: vec![2, 3], key: 0, values: vec![1], expiry: None, deletes: None });
        let deletes = LoadSpec { delete_column: Some("gone".into()), ..spec("id", &["emb"], None) };
        let bound = bind("f", &columns(), &deletes, &table).expect("binds");
        assert_eq!(bound.roots[bound.deletes.expect("a place")], 8);
    }

    #[test]
    fn a_wrong_column_is_named_with_what_would_do() {
        let numbers = table(KeyType::U64, ValueType::F32(1));
        let error = |spec: &LoadSpec, table: &Schema| {
            bind("s3://b/f.parquet", &columns(), spec, table).expect_err("does not bind").to_string()
        };
        assert_eq!(
            error(&spec("uid", &["v"], None), &numbers),
            "s3://b/f.parquet: there is no column `uid`; the columns are `v`, `until`, `id`, `emb`, `at`, `name`, \
             `twice`, `twice`, `gone`"
        );
        assert_eq!(
            error(&spec("name", &["v"], None), &numbers),
            "s3://b/f.parquet: key column `name` has type string; a table with key type u64 accepts int8, int16, \
             int32, int64, uint8, uint16, uint32 or uint64"
        );
        assert!(error(&spec("id", &["at"], None), &numbers).contains("value column `at` has type timestamp[ms]"));
        assert!(error(&spec("id", &["v"], Some("at")), &numbers).contains("expiry column `at`"));
        let deletes = LoadSpec { delete_column: Some("until".into()), ..spec("id", &["v"], None) };
        assert!(error(&deletes, &numbers).contains("delete column `until` has type int64"));
        assert!(error(&spec("id", &["twice"], None), &numbers).contains("2 columns named `twice`"));
        let vectors = table(KeyType::Bytes, ValueType::F16(3));
        assert!(error(&spec("id", &["emb"], None), &vectors).contains("key column `id` has type int32"));
        assert!(error(&spec("name", &["v"], None), &vectors).contains("accepts a list"));
        let bytes = table(KeyType::U64, ValueType::Bytes);
        assert!(error(&spec("id", &["emb"], None), &bytes).contains("has type list<float>"));
    }
}
