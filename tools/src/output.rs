//! Text for people: aligned columns, key–value blocks, counts, sizes and times.

use std::io::{self, Write};

/// Rows of cells, printed with aligned columns. Numbers are best given as right-aligned columns.
#[derive(Debug)]
pub(crate) struct Columns {
    titles: Vec<&'static str>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Columns {
    /// Columns with these titles; a title that starts with `>` is right-aligned.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        Self {
            titles: titles.iter().map(|title| title.trim_start_matches('>')).collect(),
            right: titles.iter().map(|title| title.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell per title.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        assert_eq!(N, self.titles.len(), "a cell per title");
        self.rows.push(cells.into());
    }

    /// Whether there are no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes titles and rows.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut widths: Vec<usize> = self.titles.iter().map(|title| title.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let titles: Vec<String> = self.titles.iter().map(|title| title.to_uppercase()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = " ".repeat(width - cell.chars().count());
                if right {
                    line.push_str(&padding);
                    line.push_str(cell);
                } else {
                    line.push_str(cell);
                    line.push_str(&padding);
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes names and values, aligned; values that are empty are left out.
pub(crate) fn write_block(out: &mut dyn Write, fields: &[(&str, String)]) -> io::Result<()> {
    let shown = || fields.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in shown() {
        let padding = " ".repeat(width - name.chars().count());
        writeln!(out, "{name}{padding}  {value}")?;
    }
    Ok(())
}

/// A count with separators: 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count of things: 1 table, 2 tables. For nouns whose plural ends in `s`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A rate for people: 1.23 M keys/s, 456 k keys/s, 789 keys/s.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn rate(amount: u64, seconds: f64, what: &str) -> String {
    let per_second = amount as f64 / seconds.max(1e-9);
    match per_second {
        r if r >= 1e6 => format!("{:.2} M {what}/s", r / 1e6),
        r if r >= 1e4 => format!("{:.0} k {what}/s", r / 1e3),
        r => format!("{r:.0} {what}/s"),
    }
}

/// A size for people: 12 B, 3.4 KiB, 5.6 MiB.
#[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64;
    let mut unit = "";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A moment as UTC, to the second: 2031-05-06 07:08:09Z. Empty for 0, which means never.
pub(crate) fn moment(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let second = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil_date(day: u64) -> (u64, u64, u64) {
    // Years are counted from 0000-03-01, so that the leap day is the last of its year.
    let day = day + 719_468;
    let era = day / 146_097;
    let day_of_era = day % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_month)
}

/// A duration for people: 0.21 s, 14 s, 3 min 20 s.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0..10 => format!("{seconds:.2} s"),
        10..120 => format!("{seconds:.1} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut columns = Columns::new(&["name", ">rows", "state"]);
        columns.row(["a".into(), "1,000".into(), "live".into()]);
        columns.row(["längerer".into(), "7".into(), String::new()]);
        let mut out = Vec::new();
        columns.write(&mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "NAME       ROWS  STATE\na         1,000  live\nlängerer      7\n");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!([0, 1, 2000].map(|n| counted(n, "row")), ["0 rows", "1 row", "2,000 rows"]);
        assert_eq!(rate(3_000_000, 2.0, "rows"), "1.50 M rows/s");
        assert_eq!(rate(100, 2.0, "keys"), "50 keys/s");
    }

    #[test]
    fn moments_are_gregorian() {
        for (seconds, text) in [
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_709_251_200, "2024-03-01 00:00:00Z"),
            (4_102_444_800, "2100-01-01 00:00:00Z"),
            (1, "1970-01-01 00:00:01Z"),
        ] {
            assert_eq!(moment(seconds * 1000), text);
        }
        assert_eq!(moment(0), "");
    }
}
