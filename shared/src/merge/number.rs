//! JSON numbers as what they say, digit for digit: compared and added without
//! floating point.
//!
//! Called by the merge of columns only. The texts come from peers, so that
//! nothing here may cost more than their length: exponents are never written
//! out.

use crate::json::{Kind, Reader};
use std::cmp::Ordering;

/// Digits before and behind the point with which [`add`] still calculates: far
/// more than any counter or price has, and safe from overflow in 128 bits.
const MOST_DIGITS: i64 = 34;

/// A number: `0.d1d2d3… × 10^point`, without zeros at either end.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
}

impl Decimal {
    /// Reads the text of a JSON number.
    fn read(text: &str) -> Self {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = all.iter().take_while(|digit| **digit == b'0').count();
        let kept = all.len() - all.iter().rev().take_while(|d| **d == b'0').count();
        if zeros == all.len() {
            return Self {
                negative: false,
                digits: Vec::new(),
                point: 0,
            };
        }
        Self {
            negative,
            digits: all[zeros..kept].to_vec(),
            point: length(whole)
                .saturating_sub(i64::try_from(zeros).unwrap_or(i64::MAX))
                .saturating_add(exponent_of(exponent)),
        }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.digits.is_empty(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        let size = || {
            self.point
                .cmp(&other.point)
                .then_with(|| self.digits.cmp(&other.digits))
        };
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            1 => size(),
            _ => size().reverse(),
        })
    }

    /// Times 10^`places`, when that is a whole number of moderate length.
    fn scaled(&self, places: i64) -> Option<i128> {
        let length = self.point.checked_add(places)?;
        let digits = i64::try_from(self.digits.len()).ok()?;
        if self.digits.is_empty() {
            return Some(0);
        }
        if length < digits || length > MOST_DIGITS {
            return None;
        }
        let mut whole: i128 = 0;
        for digit in &self.digits {
            whole = whole * 10 + i128::from(digit - b'0');
        }
        for _ in digits..length {
            whole *= 10;
        }
        Some(if self.negative { -whole } else { whole })
    }

    /// Digits behind the point.
    fn places(&self) -> i64 {
        length_of(&self.digits).saturating_sub(self.point).max(0)
    }
}

fn length(text: &str) -> i64 {
    length_of(text.as_bytes())
}

fn length_of(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// An exponent beyond 64 bits is as good as endless.
fn exponent_of(text: &str) -> i64 {
    let negative = text.starts_with('-');
    let endless = if negative { i64::MIN / 4 } else { i64::MAX / 4 };
    let found = text.trim_start_matches('+').parse().unwrap_or(endless);
    found.clamp(i64::MIN / 4, i64::MAX / 4)
}

/// Which of two JSON values is greater: numbers exactly, strings by their
/// bytes, `false` before `true`. `None` for anything else, also for two kinds.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    let (mut left, mut right) = (Reader::new(a), Reader::new(b));
    match (left.kind().ok()?, right.kind().ok()?) {
        (Kind::Number, Kind::Number) => {
            Some(Decimal::read(a.trim()).compare(&Decimal::read(b.trim())))
        }
        (Kind::String, Kind::String) => Some(
            left.string()
                .ok()?
                .as_bytes()
                .cmp(right.string().ok()?.as_bytes()),
        ),
        (Kind::Bool, Kind::Bool) => Some(a.trim().len().cmp(&b.trim().len()).reverse()),
        _ => None,
    }
}

/// `theirs + mine − base`, exactly, or `None` when that cannot be said:
///
/// - three integers give an integer of 64 bits, never a saturated one;
/// - with a point or an exponent anywhere, decimals of up to 34 digits give a
///   decimal (0.1 and 0.2 make 0.3); SQLite rounds it when it is stored;
/// - three strings that are plain decimals (`"12.50"`) give such a string.
pub(super) fn add(base: &str, mine: &str, theirs: &str) -> Option<String> {
    let all = [base.trim(), mine.trim(), theirs.trim()];
    let mut kinds = Vec::with_capacity(3);
    for text in all {
        kinds.push(Reader::new(text).kind().ok()?);
    }
    match kinds[..] {
        [Kind::Number, Kind::Number, Kind::Number] => {
            let integers = all.iter().all(|text| !text.contains(['.', 'e', 'E']));
            if integers {
                let [base, mine, theirs] = [number(base)?, number(mine)?, number(theirs)?];
                return i64::try_from(theirs + mine - base)
                    .ok()
                    .map(|sum| sum.to_string());
            }
            decimal(all, 1)
        }
        [Kind::String, Kind::String, Kind::String] => {
            let mut texts = Vec::with_capacity(3);
            for text in all {
                texts.push(Reader::new(text).string().ok()?.into_owned());
            }
            if !texts.iter().all(|text| is_plain(text)) {
                return None;
            }
            let shown = texts
                .iter()
                .map(|text| text.split_once('.').map_or(0, |(_, places)| length(places)));
            let places = shown.max().unwrap_or(0);
            let sum = decimal([&*texts[0], &*texts[1], &*texts[2]], places)?;
            Some(format!("\"{sum}\""))
        }
        _ => None,
    }
}

fn number(text: &str) -> Option<i128> {
    text.trim().parse::<i64>().ok().map(i128::from)
}

fn is_plain(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    [whole, fraction]
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Written with at least `shown` digits behind the point.
fn decimal(all: [&str; 3], shown: i64) -> Option<String> {
    let [base, mine, theirs] = all.map(Decimal::read);
    let places = [&base, &mine, &theirs]
        .map(Decimal::places)
        .into_iter()
        .fold(shown, i64::max);
    if places > MOST_DIGITS {
        return None;
    }
    let sum = theirs.scaled(places)? + mine.scaled(places)? - base.scaled(places)?;
    let places = usize::try_from(places).ok()?;
    let digits = format!("{:0>width$}", sum.unsigned_abs(), width = places + 1);
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let sign = if sum < 0 { "-" } else { "" };
    Some(if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_by_all_their_digits() {
        use Ordering::{Equal, Greater, Less};
        for (a, b, expected) in [
            ("9007199254740993", "9007199254740992", Greater),
            ("1.0", "1", Equal),
            ("1e2", "100.00", Equal),
            ("-0.0", "0", Equal),
            ("-2", "-10", Greater),
            ("-1", "0", Less),
            ("0.001", "1e-4", Greater),
            ("9e999", "1.7976931348623157e308", Greater),
            ("-9e999", "-1e308", Less),
            ("1e99999999999999999999", "9e999", Greater),
            ("1e-99999999999999999999", "0", Greater),
            ("99", "101", Less),
            (r#""a""#, r#""b""#, Less),
            (r#""2026-01-02""#, r#""2026-01-10""#, Less),
            (r#""\u00e9""#, r#""é""#, Equal),
            ("false", "true", Less),
        ] {
            assert_eq!(compare(a, b), Some(expected), "{a} {b}");
            assert_eq!(compare(b, a), Some(expected.reverse()), "{b} {a}");
        }
        for (a, b) in [
            ("1", r#""1""#),
            ("null", "1"),
            ("null", "null"),
            ("{}", "{}"),
        ] {
            assert_eq!(compare(a, b), None, "{a} {b}");
        }
    }

    #[test]
    fn counters_are_added_exactly() {
        let max = i64::MAX.to_string();
        let nines = |count: usize| "9".repeat(count);
        let tiny = |places: usize| format!("0.{}1", "0".repeat(places - 1));
        let text = |places: usize| format!("\"{}\"", tiny(places));
        for (base, mine, theirs, expected) in [
            ("10", "12", "15", Some("17")),
            ("10", "7", "10", Some("7")),
            (
                "9007199254740992",
                "9007199254740993",
                "9007199254740994",
                Some("9007199254740995"),
            ),
            ("0", &max, "1", None),
            ("1", &max, "1", Some(&*max)),
            ("0", "9223372036854775808", "0", None),
            ("0.1", "0.3", "0.2", Some("0.4")),
            ("1", "2", "1.5", Some("2.5")),
            ("1.0", "2.0", "3.0", Some("4.0")),
            ("0.5", "0.0", "0.25", Some("-0.25")),
            ("0.0", "1e300", "1.0", None),
            ("0.0", "1e-300", "1.0", None),
            ("0", "9e999", "1", None),
            // As many digits as it calculates with, and one more.
            (&*nines(33), &*nines(33), "1.5", Some("1.5")),
            (&*nines(34), &*nines(34), "1.5", None),
            (
                "0.5",
                "0.5",
                &*nines(33),
                Some(&*format!("{}.0", nines(33))),
            ),
            ("0.5", "0.5", &*nines(34), None),
            ("0.0", &*tiny(34), "0.0", Some(&*tiny(34))),
            ("0.0", &*tiny(35), "0.0", None),
            (&*tiny(200), &*tiny(200), &*tiny(200), None),
            (
                "0.0",
                &*format!("-{}.0", nines(33)),
                &*format!("-{}.0", nines(33)),
                Some(&*format!("-1{}8.0", nines(32))),
            ),
            (&*text(35), r#""1""#, r#""1""#, None),
            ("0e-99999999999999999999", "0.0", "1.0", Some("1.0")),
            (r#""12.50""#, r#""13.00""#, r#""12.75""#, Some(r#""13.25""#)),
            (r#""1""#, r#""2""#, r#""3""#, Some(r#""4""#)),
            (r#""1""#, r#""two""#, r#""3""#, None),
            ("1", r#""2""#, "3", None),
            ("null", "2", "3", None),
        ] {
            assert_eq!(
                add(base, mine, theirs).as_deref(),
                expected,
                "{base} {mine} {theirs}"
            );
        }
    }
}
