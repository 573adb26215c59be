//! What a file looks like, by its first bytes: for the message when it is not what the load says.

use super::inflate::Compression;

/// What the beginning of a file says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// A format with a mark of its own, by the words of a message.
    Like(&'static str),
    /// JSON objects, or one.
    JsonObjects,
    /// Text of some other kind.
    Text,
    /// Nothing that is known.
    Unknown,
}

impl Looks {
    /// Looks at the first bytes of a file.
    #[must_use]
    pub(crate) fn of(head: &[u8]) -> Self {
        let like = match head {
            [b'P', b'A', b'R', b'1', ..] => "a Parquet file",
            [b'P', b'A', b'R', b'E', ..] => "an encrypted Parquet file",
            [b'P', b'K', 3, 4, ..] => "a zip file",
            [b'O', b'R', b'C', ..] => "an ORC file",
            [b'O', b'b', b'j', 1, ..] => "an Avro file",
            [b'A', b'R', b'R', b'O', b'W', b'1', ..] => "an Arrow IPC file",
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => "a bzip2 file",
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "an xz file",
            [0x04, 0x22, 0x4d, 0x18, ..] => "an lz4 file",
            [0xff, 0x06, 0, 0, b's', b'N', b'a', b'P', ..] => "a snappy file",
            [b'S', b'E', b'Q', 0..=6, ..] => "a Hadoop sequence file",
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "text in UTF-16",
            _ => match Compression::of(head) {
                Compression::Gzip => "a gzip file",
                Compression::Zstd => "a zstd file",
                Compression::None => return Self::text(head),
            },
        };
        Self::Like(like)
    }

    fn text(head: &[u8]) -> Self {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
        let control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
        // Text in another encoding is mostly ASCII too.
        let ascii = head.iter().filter(|byte| byte.is_ascii()).count();
        let readable = ascii >= head.len() / 4 * 3 || std::str::from_utf8(head).is_ok();
        if head.is_empty() || !readable || head.iter().any(control) {
            return Self::Unknown;
        }
        match head.trim_ascii_start() {
            [b'{', ..] => Self::JsonObjects,
            [b'[', ..] => Self::Like("a JSON array"),
            _ => Self::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_mistake_for_input_is_recognised() {
        for (head, looks) in [
            (&b"PAR1\x15\x04"[..], Looks::Like("a Parquet file")),
            (b"Obj\x01\x04", Looks::Like("an Avro file")),
            (b"\x1f\x8b\x08\0", Looks::Like("a gzip file")),
            (b"\x28\xb5\x2f\xfd\x04", Looks::Like("a zstd file")),
            (b"BZh91AY", Looks::Like("a bzip2 file")),
            (b"\xff\xfei\0d\0", Looks::Like("text in UTF-16")),
            (b"id,v\n1,2\n", Looks::Text),
            ("id,größ".as_bytes(), Looks::Text),
            (&"id,größ".as_bytes()[..6], Looks::Text),
            (b"\xef\xbb\xbfid,v\r\n", Looks::Text),
            (b"\n {\"id\": 1}\n", Looks::JsonObjects),
            (b"[{\"id\": 1}]", Looks::Like("a JSON array")),
            (b"id,v\n1,\0\n", Looks::Unknown),
            (b"gr\xf6\xdfe,v\n", Looks::Text),
            ("漢字かな".as_bytes(), Looks::Text),
            (&[0xa5; 100], Looks::Unknown),
            (b"", Looks::Unknown),
        ] {
            assert_eq!(Looks::of(head), looks, "{}", String::from_utf8_lossy(head));
        }
    }
}
