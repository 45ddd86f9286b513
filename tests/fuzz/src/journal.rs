//! A journal file: its header, its rounds, and the replay of a journal of several files.
//!
//! An accepted header or round is read back the same after it was written. A replay gives rounds in rising order. Each
//! of them begins at a block of a file, with a checksum that is right for that file's sequence. If the replay reports
//! no damage, no round is missing between the first and the last.

use std::io::IoSlice;
use std::path::Path;

use quipu_segments::fuzzing::{crc32fast, journal_header, journal_round, replay, write_journal_header};
use quipu_segments::sim::SimDisk;
use quipu_segments::{Disk, OpenMode};

use super::input::{Input, checksum as header_checksum};

const BLOCK: usize = 4096;
const DIRECTORY: u64 = 0xd1;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 4 {
        0 => header(&mut input),
        1 => round(&mut input),
        _ => whole(&mut input),
    }
}

fn header(input: &mut Input<'_>) {
    let reseals = input.u8() & 1 == 1;
    let mut block = input.rest().to_vec();
    if reseals && block.len() >= 40 {
        block[..8].copy_from_slice(b"QUIPUJNL");
        let crc = header_checksum(&block[..40]);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok((fields, again)) = journal_header(&block) {
        assert_eq!(again[..40], block[..40]);
        assert_eq!(journal_header(&again), Ok((fields, again)));
    }
}

fn round(input: &mut Input<'_>) {
    let (reseals, sequence) = (input.u8() & 1 == 1, input.u64());
    let mut bytes = input.rest().to_vec();
    if reseals {
        seal(&mut bytes, sequence, None);
    }
    let Some(round) = journal_round(&bytes, sequence) else {
        return;
    };
    assert_eq!(round_number(&bytes, sequence), Some(round.number));
    assert!(round.file_bytes <= bytes.len().next_multiple_of(BLOCK) as u64);
    let Some(again) = round.again else { return };
    assert_eq!(again.len() as u64, round.file_bytes);
    let twice = journal_round(&again, sequence).expect("what was written");
    assert_eq!((twice.number, twice.again), (round.number, Some(again)));
}

/// Corrects magic, length and checksum of a round.
fn seal(round: &mut [u8], sequence: u64, number: Option<u64>) {
    if round.len() < 32 {
        return;
    }
    round[4..8].copy_from_slice(b"RND1");
    if let Some(number) = number {
        round[8..16].copy_from_slice(&number.to_le_bytes());
    }
    let length = (round.len() - 32) as u32;
    round[16..20].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(&round[4..], sequence);
    round[..4].copy_from_slice(&crc.to_le_bytes());
}

/// The checksum of a round in the file with this sequence.
pub(super) fn checksum(bytes: &[u8], sequence: u64) -> u32 {
    let seed = (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// The number of the round at the start of `bytes`, read by the documented table alone.
fn round_number(bytes: &[u8], sequence: u64) -> Option<u64> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(word.try_into().expect("four bytes")))
    };
    if bytes.get(4..8)? != b"RND1" {
        return None;
    }
    let length = word(16)? as usize;
    let covered = bytes.get(4..32_usize.checked_add(length)?)?;
    (checksum(covered, sequence) == word(0)?)
        .then(|| u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes")))
}

fn whole(input: &mut Input<'_>) {
    let dir = Path::new("/data");
    let disk = SimDisk::new(1);
    disk.create_dir_all(&dir.join("journal")).expect("a directory");
    let first_round = u64::from(input.u8() % 4);
    let mut files = Vec::new();
    let mut number = first_round;
    for sequence in 1..=1 + u64::from(input.u8() % 3) {
        let mut bytes = write_journal_header([sequence, DIRECTORY, 8 * BLOCK as u64]);
        if input.u8() & 15 == 15 {
            let wrong = input.bytes(40);
            bytes[..wrong.len()].copy_from_slice(wrong);
        }
        for _ in 0..input.u8() % 8 {
            let choice = input.u8();
            let mut block = vec![0; 32];
            block[20..24].copy_from_slice(&u32::from(input.u8() & 3).to_le_bytes());
            block.extend_from_slice(input.part());
            match choice % 8 {
                // Mostly the next round; else one with another number or sequence, or bytes that are no round.
                0..5 => {
                    seal(&mut block, sequence, Some(number));
                    number += 1;
                }
                5 => seal(&mut block, sequence, Some(u64::from(input.u8()))),
                6 => seal(&mut block, sequence ^ 1, Some(number)),
                _ => {}
            }
            block.resize(block.len().next_multiple_of(BLOCK), 0);
            bytes.extend_from_slice(&block);
        }
        let path = dir.join(format!("journal/{sequence:020}.journal"));
        let file = disk.open(&path, OpenMode::Create).expect("a file");
        file.write_all_at(&[IoSlice::new(&bytes)], 0).expect("written");
        files.push((sequence, bytes));
    }
    let Ok(replayed) = replay(&disk, dir, DIRECTORY, 1, first_round) else {
        return;
    };
    let rises = replayed.rounds.is_sorted_by(|one, next| one < next);
    assert!(rises, "{replayed:?}");
    let there: Vec<u64> = files
        .iter()
        .flat_map(|(sequence, bytes)| {
            (0..bytes.len())
                .step_by(BLOCK)
                .filter_map(|at| round_number(&bytes[at..], *sequence))
        })
        .collect();
    for round in &replayed.rounds {
        assert!(there.contains(round), "round {round} of {there:?}");
    }
    if replayed.damage.is_empty() && replayed.refused.is_none() {
        let expected: Vec<u64> = (first_round..replayed.next_round).collect();
        assert_eq!(replayed.rounds, expected, "without a report nothing is missing");
    }
}
