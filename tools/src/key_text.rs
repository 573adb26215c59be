//! Keys as people write them.
//!
//! | table's keys | written as |
//! |---|---|
//! | `u64` | a decimal number; a negative one is sign-extended, as in input files; `0x…` is hexadecimal |
//! | `bytes` | text as it is (its UTF-8); `0x…` or `hex:…` are bytes; `text:…` is text, whatever follows |

use fkv_formats::schema::KeyType;

use crate::failure::{Failure, Outcome};

/// A key read from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnedKey {
    /// A key of a `u64` table.
    U64(u64),
    /// A key of a `bytes` table.
    Bytes(Vec<u8>),
}

impl OwnedKey {
    /// The number of a `u64` key.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::U64(number) => Some(*number),
            Self::Bytes(_) => None,
        }
    }

    /// The bytes of a `bytes` key.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::U64(_) => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// Reads a key of a table whose keys are of type `key_type`.
pub(crate) fn parse_key(text: &str, key_type: KeyType) -> Outcome<OwnedKey> {
    match key_type {
        KeyType::U64 => parse_u64(text).map(OwnedKey::U64).ok_or_else(|| {
            Failure::usage(format!("`{text}` is not a key of this table: its keys are u64")).hint(
                "write a number from 0 to 18446744073709551615, a negative 64-bit number, or 0x and hexadecimal digits",
            )
        }),
        KeyType::Bytes => {
            if let Some(literal) = text.strip_prefix("text:") {
                return Ok(OwnedKey::Bytes(literal.as_bytes().to_vec()));
            }
            match text.strip_prefix("0x").or_else(|| text.strip_prefix("hex:")) {
                Some(digits) => hex::decode(digits).map(OwnedKey::Bytes).map_err(|error| {
                    Failure::usage(format!("`{text}` is not a key: {error}"))
                        .hint("write an even number of hexadecimal digits, or text: before a key that is text")
                }),
                None => Ok(OwnedKey::Bytes(text.as_bytes().to_vec())),
            }
        }
    }
}

fn parse_u64(text: &str) -> Option<u64> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok();
    }
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(i64::cast_unsigned))
}

/// A key as [`parse_key`] reads it back.
pub(crate) fn key_text(key: &OwnedKey) -> String {
    match key {
        OwnedKey::U64(number) => number.to_string(),
        OwnedKey::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(char::is_control) => {
                if ["0x", "hex:", "text:"].iter().any(|prefix| text.starts_with(prefix)) {
                    format!("text:{text}")
                } else {
                    text.to_owned()
                }
            }
            _ => format!("0x{}", hex::encode(bytes)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_input_files_are() {
        for (text, number) in [("0", 0), ("18446744073709551615", u64::MAX), ("-1", u64::MAX), ("0xff", 255), ("+7", 7)]
        {
            assert_eq!(parse_key(text, KeyType::U64), Ok(OwnedKey::U64(number)), "{text}");
        }
        for text in ["", "abc", "18446744073709551616", "1.5", "0x", "-9223372036854775809", "1 2"] {
            let failure = parse_key(text, KeyType::U64).expect_err(text);
            assert_eq!(failure.exit(), crate::failure::EXIT_USAGE, "{text}");
            assert!(failure.to_string().contains("keys are u64"), "{failure}");
        }
    }

    #[test]
    fn bytes_can_be_text_or_hexadecimal() {
        for (text, bytes) in [
            ("user:42", b"user:42".as_slice()),
            ("42", b"42"),
            ("0x00ff", &[0, 255]),
            ("hex:00ff", &[0, 255]),
            ("text:0x00ff", b"0x00ff"),
            ("", b""),
            ("größe", "größe".as_bytes()),
        ] {
            assert_eq!(parse_key(text, KeyType::Bytes), Ok(OwnedKey::Bytes(bytes.to_vec())), "{text}");
        }
        for text in ["0x0", "0xzz", "hex:1"] {
            assert!(parse_key(text, KeyType::Bytes).is_err(), "{text}");
        }
    }

    #[test]
    fn a_printed_key_reads_back_as_itself() {
        for bytes in
            [b"plain".as_slice(), b"0x12", b"hex:", b"text:a", &[0, 1, 2], "größe".as_bytes(), b"a\nb", &[0xff]]
        {
            let key = OwnedKey::Bytes(bytes.to_vec());
            assert_eq!(parse_key(&key_text(&key), KeyType::Bytes), Ok(key.clone()), "{}", key_text(&key));
        }
        let key = OwnedKey::U64(u64::MAX);
        assert_eq!(parse_key(&key_text(&key), KeyType::U64), Ok(key));
    }
}
