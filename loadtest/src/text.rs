//! The texts that a server sends; pure.

/// What a text says.
#[derive(Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// `{"count":n}`
    Count(u64),
    /// `{"ts":"…"}`: a heartbeat, known by its time.
    Beat(&'a str),
    /// `{"bye":true,"total":n}`
    Bye(u64),
}

/// A heartbeat's time is 24 bytes long; a little more does no harm.
const TIME_BYTES_MAX: usize = 40;

/// Compact JSON with exactly these keys in this order, so no JSON parser is needed; a text that
/// only means the same is not what the protocol promises.
pub fn parse(payload: &[u8]) -> Option<Text<'_>> {
    let text = std::str::from_utf8(payload).ok()?;
    let inside = text.strip_prefix("{\"")?.strip_suffix('}')?;
    if let Some(count) = inside.strip_prefix("count\":") {
        number(count).map(Text::Count)
    } else if let Some(total) = inside.strip_prefix("bye\":true,\"total\":") {
        number(total).map(Text::Bye)
    } else {
        let time = inside.strip_prefix("ts\":\"")?.strip_suffix('"')?;
        let plain = time.len() <= TIME_BYTES_MAX && !time.contains(['"', '\\']);
        plain.then_some(Text::Beat(time))
    }
}

/// Digits only: `parse` of the standard library takes a plus as well.
fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_texts_are_known() {
        assert_eq!(parse(b"{\"count\":17}"), Some(Text::Count(17)));
        assert_eq!(parse(b"{\"bye\":true,\"total\":0}"), Some(Text::Bye(0)));
        let beat = b"{\"ts\":\"2026-11-23T08:00:00.000Z\"}";
        assert_eq!(parse(beat), Some(Text::Beat("2026-11-23T08:00:00.000Z")));
    }

    #[test]
    fn what_only_looks_alike_is_not() {
        for text in [
            "{\"count\": 17}",
            "{\"count\":+17}",
            "{\"count\":}",
            "{\"count\":17,\"more\":1}",
            "{\"bye\":false,\"total\":0}",
            "{\"ts\":\"a\",\"ts\":\"b\"}",
            "hello",
            "",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
