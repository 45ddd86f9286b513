//! The stored notes of requests that are appended once: by their keys, and by producers' sequences.
//!
//! There is one way to write each of them: accepted bytes are written back as the very same bytes.

use quipu_segments::fuzzing;

use super::input::Input;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (choice, length) = (input.u8(), usize::from(input.u8()));
    let (key, value) = (input.bytes(length), input.rest());
    if choice & 1 == 0 {
        if let Ok(again) = fuzzing::key_entry(key, value) {
            assert_eq!((&again.0[..], &again.1[..]), (key, value));
        }
    } else if let Some(again) = fuzzing::producer(key, value) {
        assert_eq!((&again.0[..], &again.1[..]), (key, value));
    }
}
