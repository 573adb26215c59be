//! Numbers from text: what stands in a field, or in a string or number of JSON. Blanks around a number do not matter.

/// Why text is no number of the kind that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// It is something else.
    Malformed,
    /// It is one, beyond what can be held.
    TooLarge,
}

/// An integer of up to 64 bits and its sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer {
    negative: bool,
    magnitude: u64,
}

/// Digits that always fit into 64 bits.
const SAFE_DIGITS: usize = 19;

/// Reads a decimal integer. `None` if there is nothing but blanks.
pub(crate) fn integer(text: &[u8]) -> Result<Option<Integer>, NoNumber> {
    let text = text.trim_ascii();
    let (negative, digits) = match text {
        [] => return Ok(None),
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NoNumber::Malformed);
    }
    let (safe, rest) = digits.split_at(digits.len().min(SAFE_DIGITS));
    let mut magnitude = safe.iter().fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    for digit in rest {
        let next = magnitude.checked_mul(10).and_then(|number| number.checked_add(u64::from(digit - b'0')));
        magnitude = next.ok_or(NoNumber::TooLarge)?;
    }
    Ok(Some(Integer { negative, magnitude }))
}

impl Integer {
    /// 64 bits: a negative number as its two's complement, as a signed column of Parquet is read.
    pub(crate) fn bits(self) -> Result<u64, NoNumber> {
        match self {
            Self { negative: false, magnitude } => Ok(magnitude),
            Self { magnitude, .. } if magnitude <= 1 << 63 => Ok(magnitude.wrapping_neg()),
            Self { .. } => Err(NoNumber::TooLarge),
        }
    }

    /// A signed number.
    pub(crate) fn signed(self) -> Result<i64, NoNumber> {
        match self {
            Self { negative: false, magnitude } => i64::try_from(magnitude).map_err(|_| NoNumber::TooLarge),
            Self { .. } => self.bits().map(u64::cast_signed),
        }
    }

    /// A number without a sign.
    pub(crate) fn unsigned(self) -> Result<u64, NoNumber> {
        if self.negative && self.magnitude > 0 { Err(NoNumber::TooLarge) } else { Ok(self.magnitude) }
    }
}

/// Reads a number and rounds it once, to f32: decimal or with an exponent, `NaN`, `inf` or `infinity` in any case.
/// `None` if there is nothing but blanks.
pub(crate) fn float(text: &[u8]) -> Result<Option<f32>, NoNumber> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let number: f32 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(NoNumber::Malformed)?;
    if number.is_infinite() && text.iter().any(u8::is_ascii_digit) {
        return Err(NoNumber::TooLarge);
    }
    Ok(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> Result<u64, NoNumber> {
        integer(text.as_bytes())?.expect("not blank").bits()
    }

    #[test]
    fn integers_are_exact_up_to_their_ends() {
        assert_eq!(bits("0"), Ok(0));
        assert_eq!(bits(" +17\t"), Ok(17));
        assert_eq!(bits("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(bits("000000000000000000000000018446744073709551615"), Ok(u64::MAX));
        assert_eq!(bits("18446744073709551616"), Err(NoNumber::TooLarge));
        assert_eq!(bits("-1"), Ok(u64::MAX));
        assert_eq!(bits("-0"), Ok(0));
        assert_eq!(bits("-9223372036854775808"), Ok(1 << 63));
        assert_eq!(bits("-9223372036854775809"), Err(NoNumber::TooLarge));
        for text in ["a", "1.0", "1e3", "0x10", "1_000", "--1", "-", "+", "1 2", "١"] {
            assert_eq!(integer(text.as_bytes()), Err(NoNumber::Malformed), "{text}");
        }
        assert_eq!(integer(b" \t"), Ok(None));
        let signed = |text: &str| integer(text.as_bytes()).expect(text).expect("not blank").signed();
        assert_eq!(signed("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(signed("9223372036854775808"), Err(NoNumber::TooLarge));
        assert_eq!(signed("-9223372036854775808"), Ok(i64::MIN));
        let unsigned = |text: &str| integer(text.as_bytes()).expect(text).expect("not blank").unsigned();
        assert_eq!((unsigned("-0"), unsigned("-1")), (Ok(0), Err(NoNumber::TooLarge)));
    }

    #[test]
    fn floats_are_rounded_once_and_overflow_is_told_from_infinity() {
        for (text, number) in [
            ("0.1", 0.1),
            ("-1e-05", -1e-5),
            (".5", 0.5),
            ("5.", 5.0),
            (" 7 ", 7.0),
            ("inf", f32::INFINITY),
            ("-Infinity", f32::NEG_INFINITY),
            ("3.4028235e38", f32::MAX),
            ("1e-60", 0.0),
            // Halfway between two floats but for the last digit; by way of a double it would be rounded twice.
            ("1.00000017881393432617187499", 1.000_000_1),
            ("1.00000017881393432617187500", 1.000_000_2),
        ] {
            assert_eq!(float(text.as_bytes()), Ok(Some(number)), "{text}");
        }
        assert!(matches!(float(b"NaN"), Ok(Some(number)) if number.is_nan()));
        assert_eq!(float(b"  "), Ok(None));
        for text in ["1e39", "-1e300", "3.4028236e38"] {
            assert_eq!(float(text.as_bytes()), Err(NoNumber::TooLarge), "{text}");
        }
        for text in ["one", "1,5", "1f", "0x1p3", "1 2", "\u{ff11}"] {
            assert_eq!(float(text.as_bytes()), Err(NoNumber::Malformed), "{text}");
        }
        assert_eq!(float(b"\xff"), Err(NoNumber::Malformed));
    }
}
