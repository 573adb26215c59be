//! Values as people and programs read them, by the table's value type.

use fkv_formats::value::Value;
use serde_json::{Value as Json, json};

/// The value on one line.
pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => match printable(bytes) {
            Some(text) => text.to_owned(),
            None => format!("0x{}", hex::encode(bytes)),
        },
        numbers => numbers.to_string(),
    }
}

/// The value in JSON: text or `{"hex": …}`, a number, or a list of numbers. What JSON has no number for is the
/// string `NaN`, `inf` or `-inf`.
pub(crate) fn value_json(value: &Value) -> Json {
    match value {
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json!(text),
            Err(_) => json!({ "hex": hex::encode(bytes) }),
        },
        Value::I64(number) => json!(number),
        Value::F32(numbers) => vector(numbers.iter().copied()),
        Value::F16(numbers) => vector(numbers.iter().map(|number| number.to_f32())),
    }
}

fn vector(numbers: impl ExactSizeIterator<Item = f32>) -> Json {
    // The shortest decimal that gives the f32 back, not that of the f64 it widens to.
    let number = |number: f32| match number.to_string().parse::<f64>() {
        Ok(shortest) if number.is_finite() => json!(shortest),
        _ => json!(number.to_string()),
    };
    let is_scalar = numbers.len() == 1;
    let mut numbers = numbers.map(number);
    if is_scalar { numbers.next().unwrap_or(Json::Null) } else { Json::Array(numbers.collect()) }
}

fn printable(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_shown_by_its_type() {
        let f16 = half::f16::from_f32;
        for (value, text, json) in [
            (Value::F32(vec![0.1]), "0.1", "0.1"),
            (Value::F32(vec![0.1, -2.0, f32::NAN]), "[0.1, -2, NaN]", r#"[0.1,-2.0,"NaN"]"#),
            (Value::F16(vec![f16(0.5), half::f16::INFINITY]), "[0.5, inf]", r#"[0.5,"inf"]"#),
            (Value::F16(vec![f16(-3.0)]), "-3", "-3.0"),
            (Value::I64(-7), "-7", "-7"),
            (Value::Bytes(b"red".to_vec()), "red", r#""red""#),
            (Value::Bytes(b"a\nb".to_vec()), "0x610a62", r#""a\nb""#),
            (Value::Bytes(vec![0xff]), "0xff", r#"{"hex":"ff"}"#),
            (Value::Bytes(vec![]), "", r#""""#),
        ] {
            assert_eq!((value_text(&value).as_str(), value_json(&value).to_string().as_str()), (text, json));
        }
    }
}
