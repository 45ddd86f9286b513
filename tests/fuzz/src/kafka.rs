//! Messages of Kafka's protocol: requests and answers of every API in every version.
//!
//! What was read is written and read again as the same message, and its arrays take no more memory than a frame of its
//! size may have.

use bytes::Bytes;
use quipu::kafka::fuzzing::{has_header, rewrite};

/// Keys, versions and directions are chosen by the first three bytes.
pub fn run(data: &[u8]) {
    let _ = has_header(Bytes::copy_from_slice(data));
    let Some((&[key, version, direction], body)) = data.split_first_chunk::<3>() else {
        return;
    };
    let (key, version, is_answer) = (i16::from(key), i16::from(version % 20), direction % 2 == 1);
    let Some((again, left, charged, allowance)) =
        rewrite(key, version, is_answer, Bytes::copy_from_slice(body))
    else {
        return;
    };
    assert!(left <= body.len());
    assert!(charged <= allowance, "{charged} of {allowance}");
    let twice = rewrite(key, version, is_answer, again.clone().into());
    let (twice, left, ..) = twice.expect("what was written can be read");
    assert_eq!((twice, left), (again, 0));
}
