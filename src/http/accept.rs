//! Chooses the representation of records for a client (RFC 9110, section 12.5.1).

use http::{HeaderMap, header};

use super::problem::{Code, Problem};

/// A representation of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation {
    /// One JSON document.
    Json,
    /// One record per line.
    NdJson,
    /// The stored batches.
    RecordBatch,
    /// An array of CloudEvents.
    CloudEvents,
}

impl Representation {
    /// All representations; if the client accepts several equally, the first one wins.
    const ALL: [Self; 4] = [Self::Json, Self::NdJson, Self::RecordBatch, Self::CloudEvents];

    /// The media type.
    #[must_use]
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::RecordBatch => "application/vnd.apache.kafka.record-batch",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }
}

/// Chooses among the representations of a fetch; see [`choose`].
///
/// # Errors
/// 406 if the client accepts none.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Representation, Problem> {
    let known = Representation::ALL.map(|representation| (representation.media_type(), representation));
    choose(headers, &known)
}

/// Chooses the representation with the highest `q`, then the one that is named most exactly, then the first.
///
/// Without `Accept`, everything is accepted, and the first is chosen. Parameters of a media type other than `q` are
/// ignored. A malformed element accepts nothing.
///
/// # Errors
/// 406 if none of `known` is accepted; the problem lists them.
pub(crate) fn choose<T: Copy>(headers: &HeaderMap, known: &[(&'static str, T)]) -> Result<T, Problem> {
    // A header that is not text counts as a malformed element.
    let fields = headers.get_all(header::ACCEPT).iter();
    let fields: Vec<&str> = fields.map(|field| field.to_str().unwrap_or("?")).collect();
    // Empty elements of a list are ignored (RFC 9110, section 5.6.1.2).
    let elements = fields.iter().flat_map(|field| field.split(','));
    let mut elements = elements.filter(|element| !element.trim().is_empty()).peekable();
    if let (None, Some((_, first))) = (elements.peek(), known.first()) {
        return Ok(*first);
    }
    let ranges: Vec<Range<'_>> = elements.filter_map(Range::parse).collect();
    let mut best: Option<((u16, Exactness), T)> = None;
    for (media_type, candidate) in known {
        // The most exact range decides: `*/*, application/json;q=0` excludes JSON.
        let matching = ranges.iter().filter(|range| range.matches(media_type));
        let Some(range) = matching.max_by_key(|range| (range.exactness, range.quality)) else {
            continue;
        };
        let rank = (range.quality, range.exactness);
        if range.quality > 0 && best.is_none_or(|(other, _)| rank > other) {
            best = Some((rank, *candidate));
        }
    }
    best.map(|(_, representation)| representation).ok_or_else(|| {
        let known: Vec<&str> = known.iter().map(|(media_type, _)| *media_type).collect();
        let known = known.join(", ");
        let detail = format!("records come as {known} here; the Accept header allows none of these");
        Problem::new(Code::NotAcceptable, detail)
    })
}

/// Whether a client takes anything: without `Accept`, or with `*/*` in it.
pub(super) fn takes_all(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::ACCEPT).iter();
    let fields: Vec<&str> = fields.map(|field| field.to_str().unwrap_or("?")).collect();
    let elements = fields.iter().flat_map(|field| field.split(','));
    let mut elements = elements.filter(|element| !element.trim().is_empty()).peekable();
    elements.peek().is_none()
        || elements
            .filter_map(Range::parse)
            .any(|range| range.exactness == Exactness::Any && range.quality > 0)
}

/// Whether a client names a media type exactly; ranges with `*` do not count.
pub(super) fn names(headers: &HeaderMap, media_type: &str) -> bool {
    let fields = headers.get_all(header::ACCEPT).iter();
    fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(Range::parse)
        .any(|range| range.exactness == Exactness::Subtype && range.quality > 0 && range.matches(media_type))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Exactness {
    Any,
    Type,
    Subtype,
}

/// One element of an `Accept` header.
struct Range<'a> {
    main: &'a str,
    sub: &'a str,
    exactness: Exactness,
    /// In thousandths.
    quality: u16,
}

impl<'a> Range<'a> {
    fn parse(element: &'a str) -> Option<Self> {
        let mut parts = element.split(';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let exactness = match (main, sub) {
            ("*", "*") => Exactness::Any,
            ("*", _) | ("", _) | (_, "") => return None,
            (_, "*") => Exactness::Type,
            _ => Exactness::Subtype,
        };
        let mut quality = 1000;
        for parameter in parts {
            if let Some((name, value)) = parameter.split_once('=')
                && name.trim().eq_ignore_ascii_case("q")
            {
                quality = parse_quality(value.trim())?;
            }
        }
        Some(Self {
            main,
            sub,
            exactness,
            quality,
        })
    }

    fn matches(&self, media_type: &str) -> bool {
        let (main, sub) = media_type.split_once('/').unwrap_or((media_type, ""));
        match self.exactness {
            Exactness::Any => true,
            Exactness::Type => self.main.eq_ignore_ascii_case(main),
            Exactness::Subtype => self.main.eq_ignore_ascii_case(main) && self.sub.eq_ignore_ascii_case(sub),
        }
    }
}

/// `0`, `1`, or either with up to three decimals, in thousandths; `None` for anything else.
fn parse_quality(text: &str) -> Option<u16> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut thousandths: u16 = match whole {
        "0" => 0,
        "1" => 1,
        _ => return None,
    };
    for place in 0..3 {
        let digit = decimals.as_bytes().get(place).unwrap_or(&b'0');
        thousandths = thousandths * 10 + u16::from(digit - b'0');
    }
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn chosen(fields: &[&str]) -> Option<Representation> {
        let field = |field: &&str| (header::ACCEPT, HeaderValue::from_str(field).unwrap());
        let headers = HeaderMap::from_iter(fields.iter().map(field));
        match negotiate(&headers) {
            Ok(representation) => Some(representation),
            Err(problem) => {
                assert_eq!(problem.code(), Code::NotAcceptable);
                None
            }
        }
    }

    #[test]
    fn without_accept_or_with_any_type_json_is_sent() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for fields in [
            &[][..],
            &[""],
            &[","],
            &["", " , "],
            &["*/*"],
            &["application/*"],
            &[browser],
        ] {
            assert_eq!(chosen(fields), Some(Representation::Json), "{fields:?}");
        }
        let json = "application/json|Application/JSON; charset=utf-8|application/json, text/plain, */*";
        for field in json.split('|') {
            assert_eq!(chosen(&[field]), Some(Representation::Json), "{field}");
        }
    }

    #[test]
    fn the_highest_quality_wins_then_the_most_exact_range() {
        use Representation::{CloudEvents, Json, NdJson, RecordBatch};
        for (fields, expected) in [
            ("application/x-ndjson", NdJson),
            ("application/x-ndjson, */*", NdJson),
            ("application/x-ndjson;q=0.5, application/json;q=0.4", NdJson),
            ("application/x-ndjson;q=0.5|application/json;q=0.501", Json),
            (
                "application/vnd.apache.kafka.record-batch, application/json;q=0.9",
                RecordBatch,
            ),
            ("application/cloudevents-batch+json, */*;q=0.1", CloudEvents),
            ("*/*, application/json;q=0", NdJson),
        ] {
            let fields: Vec<&str> = fields.split('|').collect();
            assert_eq!(chosen(&fields), Some(expected), "{fields:?}");
        }
    }

    #[test]
    fn a_type_counts_as_named_only_if_it_is_accepted() {
        let named = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            names(&headers, "application/cloudevents+json")
        };
        assert!(named("text/event-stream, application/cloudevents+json"));
        assert!(named("Application/CloudEvents+JSON;q=0.1"));
        let others = "*/* application/* application/cloudevents+json;q=0 application/cloudevents-batch+json";
        for accept in others.split(' ').chain([""]) {
            assert!(!named(accept), "{accept}");
        }
    }

    #[test]
    fn a_client_takes_all_if_it_says_so_or_says_nothing() {
        let all = |accept: &'static str| {
            takes_all(&HeaderMap::from_iter([(
                header::ACCEPT,
                HeaderValue::from_static(accept),
            )]))
        };
        assert!(takes_all(&HeaderMap::new()));
        for accept in [
            "*/*",
            "",
            "application/json, text/plain, */*",
            "*/*;q=0.1, application/json",
        ] {
            assert!(all(accept), "{accept}");
        }
        for accept in [
            "application/json",
            "application/*",
            "*/*;q=0, application/json",
            "x",
        ] {
            assert!(!all(accept), "{accept}");
        }
    }

    #[test]
    fn an_unknown_type_is_not_acceptable() {
        let unknown = "text/html text/* */json application/cloudevents+json application/json;q=0 */*;q=0 json text/\u{fc} \
            application/json;q=2 application/json;q=1.001 application/json;q=x";
        for field in unknown.split(' ') {
            assert_eq!(chosen(&[field]), None, "{field}");
        }
    }
}
