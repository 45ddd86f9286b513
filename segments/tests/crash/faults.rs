//! The faults that are caused while the log runs.

use quipu_segments::sim::{Fault, FaultError, IoKind, SimDisk};

use super::Driver;

impl Driver {
    pub(super) fn plan_fault(&mut self) {
        use IoKind::{Create, Look, Open, Read, Remove, Rename, SetLen, Sync, SyncDir, Write};
        const KINDS: [IoKind; 14] = [
            Write, Write, Write, Sync, Sync, Sync, SyncDir, Rename, Create, Open, SetLen, Remove, Read, Look,
        ];
        let kind = KINDS[self.rng.index(KINDS.len())];
        let mut fault = Fault::once(kind, self.rng.below(6));
        if matches!(kind, Write | Create | Rename | SetLen) && self.rng.chance(1, 3) {
            fault = fault.with(FaultError::Full);
        }
        if self.rng.chance(1, 4) {
            fault = fault.onwards();
        }
        match self.rng.below(6) {
            0 => fault = fault.on("journal"),
            1 => fault = fault.on("topics"),
            2 => fault = fault.on("checkpoint"),
            _ => {}
        }
        say!(self, "{fault:?}");
        self.disk.fail(fault);
    }

    pub(super) fn fill_up(&mut self) {
        let room = [0, 4 << 10, 64 << 10, 300 << 10][self.rng.index(4)];
        say!(self, "space for {room} bytes is left");
        self.disk.set_capacity(Some(self.disk.used_bytes() + room));
        self.full = true;
        self.tally.full += 1;
    }

    /// Makes some of the next reads fail: failing calls, or flipped bits.
    pub(super) fn trouble_reads(&mut self) {
        if self.rng.chance(1, 2) {
            let one_in = self.rng.between(1, 12);
            say!(self, "one in {one_in} pages is read with a flipped bit");
            self.disk.flip_bits_on_read("/topics/", one_in, u64::MAX);
            return;
        }
        use IoKind::{Look, Open, Read};
        let kind = [Read, Read, Read, Open, Look][self.rng.index(5)];
        let path = [".log", ".log", ".index", "index"][self.rng.index(4)];
        let mut fault = Fault::once(kind, self.rng.below(5)).on(path);
        if self.rng.chance(1, 2) {
            fault = fault.onwards();
        }
        say!(self, "{fault:?}");
        self.disk.fail(fault);
    }

    /// Makes the next opening read flipped bits, and returns the disk from before.
    pub(super) fn flip_bits_of_an_opening(&mut self) -> SimDisk {
        const PATHS: [&str; 6] = ["/", ".journal", "checkpoint", "state.", "topic.json", "/topics/"];
        let (path, one_in) = (PATHS[self.rng.index(PATHS.len())], [1, 4, 40][self.rng.index(3)]);
        say!(self, "one in {one_in} pages of {path} is read with a flipped bit");
        let before = self.disk.after_kill();
        self.disk = before.after_kill();
        // Only one: with two wrong bits, the last round of a journal looks like one that a power cut has torn.
        self.disk.flip_bits_on_read(path, one_in, 1);
        before
    }
}
