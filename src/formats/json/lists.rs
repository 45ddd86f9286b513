//! Lists of records: a whole `{"records":[…]}`, and an array within another document.

use super::parse::{AddressedRecord, ParsedRecord, RecordError, addressed, not_utf8, record, unknown};
use super::scan::{Fault, Scanner};

/// Reads a body `{"records":[…]}` and passes each record with its index to `take`, in order; returns their number.
///
/// The records before a wrong one have been passed on when the error returns: do nothing permanent with them.
///
/// # Errors
/// The fault, with the pointer from the body (`/records/3/key`), or the error of `take`.
pub fn parse_records<'a, E: From<RecordError>>(
    body: &'a [u8],
    take: impl FnMut(usize, ParsedRecord<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    if let Err(error) = std::str::from_utf8(body) {
        let ignore = |_, _: ParsedRecord<'_>| Ok::<(), RecordError>(());
        let parse = |prefix: &[u8]| body_records(prefix, record, ignore).err();
        return Err(not_utf8(body, error.valid_up_to(), parse).into());
    }
    body_records(body, record, take)
}

/// The same for records that name their topics: each must have a `topic`.
///
/// # Errors
/// As for [`parse_records`].
pub fn parse_addressed<'a, E: From<RecordError>>(
    body: &'a [u8],
    take: impl FnMut(usize, AddressedRecord<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    if let Err(error) = std::str::from_utf8(body) {
        let ignore = |_, _: AddressedRecord<'_>| Ok::<(), RecordError>(());
        let parse = |prefix: &[u8]| body_records(prefix, addressed, ignore).err();
        return Err(not_utf8(body, error.valid_up_to(), parse).into());
    }
    body_records(body, addressed, take)
}

/// Reads an array of records that name their topics, which is at `pointer` in its document, and passes each with its index
/// to `take`, in order; returns their number, which may be 0.
///
/// # Errors
/// The fault, with the pointer from the document (`/produce/3/key`) and the byte of the array, or the error of `take`.
pub fn parse_addressed_list<'a, E: From<RecordError>>(
    list: &'a str,
    pointer: &str,
    mut take: impl FnMut(usize, AddressedRecord<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    let here = |fault| RecordError::new(pointer, fault);
    let mut scanner = Scanner::new(list.as_bytes());
    scanner.expect(b'[', "an array of records").map_err(here)?;
    let count = items(&mut scanner, pointer, addressed, &mut take)?;
    scanner.end().map_err(here)?;
    Ok(count)
}

/// Reads a body that is UTF-8, each of its records by `read`.
fn body_records<'a, T, E: From<RecordError>>(
    body: &'a [u8],
    read: impl Fn(&mut Scanner<'a>) -> Result<T, RecordError>,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<usize, E> {
    let top = |fault| RecordError::new("", fault);
    let list = |fault| RecordError::new("/records", fault);
    let mut scanner = Scanner::new(body);
    let mut count = None;
    scanner.expect(b'{', "an object with records").map_err(top)?;
    let mut first = true;
    while !scanner.eat(b'}') {
        if !first {
            scanner.expect(b',', "',' or '}'").map_err(top)?;
        }
        first = false;
        let name = scanner.string("a field's name").map_err(top)?;
        if &*name.decode().map_err(top)? != b"records" {
            return Err(unknown(name, "records").into());
        }
        if count.is_some() {
            return Err(list(Fault::new(name.at, "records is given twice")).into());
        }
        scanner.expect(b':', "':'").map_err(list)?;
        scanner.expect(b'[', "an array of records").map_err(list)?;
        count = Some(items(&mut scanner, "/records", &read, &mut take)?);
    }
    scanner.end().map_err(top)?;
    match count {
        None => Err(list(Fault::new(scanner.position(), "records is missing")).into()),
        Some(0) => Err(list(Fault::new(scanner.position(), "records is empty")).into()),
        Some(count) => Ok(count),
    }
}

/// Reads an array's items, whose `[` is read already, and passes each with its index to `take`; returns their number.
pub(crate) fn items<'a, T, E: From<RecordError>>(
    scanner: &mut Scanner<'a>,
    pointer: &str,
    read: impl Fn(&mut Scanner<'a>) -> Result<T, RecordError>,
    take: &mut impl FnMut(usize, T) -> Result<(), E>,
) -> Result<usize, E> {
    let mut index = 0;
    let mut more = !scanner.eat(b']');
    while more {
        let record = read(scanner).map_err(|error| error.within(&format!("{pointer}/{index}")))?;
        take(index, record)?;
        index += 1;
        more = !scanner.eat(b']');
        if more {
            let separator = scanner.expect(b',', "',' or ']'");
            separator.map_err(|fault| RecordError::new(pointer, fault))?;
        }
    }
    Ok(index)
}
