//! What is made to go wrong while the log runs.

use quipu_segments::sim::{Fault, FaultError, IoKind};

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
}
