//! Whether a broker drains, for whom, and how far it is. Pure: the shell in `mod.rs` looks, announces and flushes.
//!
//! A drain is a *round*. It begins with the first who asks and ends when the broker takes work again; who asked for one
//! that has ended hears why. Until everything is gone it is held by those who wait for it: when the last of them leaves,
//! the round ends. A broker that has given everything away stays so until somebody says otherwise, or until nobody else
//! is left: a cluster without a leader is worse than a drain that has to be asked for again.

use std::collections::BTreeSet;

/// How far a broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It takes what should be its own.
    Serving,
    /// It gives away what it has.
    HandingOver,
    /// It has nothing any more; what it has written becomes durable.
    Flushing,
    /// It has nothing any more and takes nothing.
    Drained,
}

/// Why a round has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Somebody said so.
    Undrained,
    /// Nobody waits for it any more.
    Deserted,
    /// Nobody is left who could take anything over.
    Alone,
    /// Others cannot be told, and the process cannot wait.
    Unannounced,
}

/// Why a drain did not begin or could not be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no other broker.
    #[error("no other live broker could take over what this one has; start another one, or one that drains again")]
    Alone,
    /// The process ends.
    #[error("the process is stopping and gives everything away by itself; wait until it has ended")]
    Stopping,
}

/// Holds a round until everything is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The round.
    pub round: u64,
    id: u64,
}

/// What is seen of the broker and of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Some other broker could take over.
    pub others: bool,
    /// This process's image of the cluster says that it drains, so that nothing new is taken.
    pub known: bool,
    /// Partitions that it leads.
    pub partitions: usize,
    /// Coordinator shards that it has.
    pub shards: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct State {
    phase: Phase,
    round: u64,
    ended: Option<End>,
    holders: BTreeSet<u64>,
    next_id: u64,
    /// It goes on without anybody waiting: all was given away once, or the process ends.
    kept: bool,
    stopping: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Serving,
            round: 0,
            ended: None,
            holders: BTreeSet::new(),
            next_id: 0,
            kept: false,
            stopping: false,
        }
    }
}

impl State {
    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The round that runs, or the next one.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Why the last round ended.
    pub fn ended(&self) -> Option<End> {
        self.ended
    }

    /// The process ends.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// What others should be told, if they should be told anything: a process that ends does not take it back.
    pub fn announcement(&self) -> Option<bool> {
        match self.phase {
            Phase::Serving if self.stopping => None,
            Phase::Serving => Some(false),
            _ => Some(true),
        }
    }

    /// Somebody asks for a drain, and waits for it.
    pub fn begin(&mut self, others: bool) -> Result<Ticket, Refused> {
        if self.stopping {
            return Err(Refused::Stopping);
        }
        if !others {
            return Err(Refused::Alone);
        }
        if self.phase == Phase::Serving {
            self.phase = Phase::HandingOver;
        }
        let ticket = Ticket { round: self.round, id: self.next_id };
        self.next_id += 1;
        self.holders.insert(ticket.id);
        Ok(ticket)
    }

    /// Who holds the ticket does not wait any more.
    pub fn gone(&mut self, ticket: Ticket) {
        if ticket.round == self.round
            && self.holders.remove(&ticket.id)
            && self.holders.is_empty()
            && !self.kept
            && self.phase != Phase::Serving
        {
            self.end(End::Deserted);
        }
    }

    /// Somebody says that it shall take work again. Returns whether it drained.
    pub fn undrain(&mut self) -> Result<bool, Refused> {
        if self.stopping {
            return Err(Refused::Stopping);
        }
        let drained = self.phase != Phase::Serving;
        if drained {
            self.end(End::Undrained);
        }
        Ok(drained)
    }

    /// The process ends: it drains if there is somebody to take over, and nobody can call it off.
    pub fn stop(&mut self, others: bool) {
        (self.stopping, self.kept) = (true, true);
        if self.phase == Phase::Serving && others {
            self.phase = Phase::HandingOver;
        }
    }

    /// Others could not be told. They will be, later, unless the process ends.
    pub fn unannounced(&mut self) {
        if self.stopping && self.phase != Phase::Serving {
            self.end(End::Unannounced);
        }
    }

    /// Looks how far it is.
    pub fn look(&mut self, seen: Seen) {
        let empty = seen.known && seen.partitions == 0 && seen.shards == 0;
        match self.phase {
            Phase::Serving => {}
            Phase::Drained if self.stopping => {} // it ends, whoever else is there
            _ if !seen.others => self.end(End::Alone),
            Phase::HandingOver if empty => self.phase = Phase::Flushing,
            // It took something when it did not know yet, or the image of before came late.
            Phase::Flushing | Phase::Drained if !empty => self.phase = Phase::HandingOver,
            _ => {}
        }
    }

    /// Everything that this broker has written is durable, as of round `round`.
    pub fn flushed(&mut self, round: u64) {
        if self.phase == Phase::Flushing && round == self.round {
            self.phase = Phase::Drained;
            self.kept = true;
        }
    }

    fn end(&mut self, why: End) {
        self.phase = Phase::Serving;
        self.round += 1;
        self.ended = Some(why);
        self.holders.clear();
        self.kept = self.stopping;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Seen = Seen { others: true, known: true, partitions: 0, shards: 0 };
    const BUSY: Seen = Seen { partitions: 2, shards: 1, ..EMPTY };

    fn drained() -> (State, Ticket) {
        let mut state = State::default();
        let ticket = state.begin(true).unwrap();
        state.look(EMPTY);
        state.flushed(ticket.round);
        assert_eq!(state.phase(), Phase::Drained);
        (state, ticket)
    }

    #[test]
    fn gives_away_then_flushes_then_is_drained_and_stays_so() {
        let mut state = State::default();
        assert_eq!(state.announcement(), Some(false));
        let ticket = state.begin(true).unwrap();
        assert_eq!(state.announcement(), Some(true));
        for seen in [BUSY, Seen { partitions: 0, ..BUSY }, Seen { shards: 0, ..BUSY }, Seen { known: false, ..EMPTY }] {
            state.look(seen);
            assert_eq!(state.phase(), Phase::HandingOver, "{seen:?}");
        }
        state.look(EMPTY);
        assert_eq!(state.phase(), Phase::Flushing);
        state.flushed(ticket.round + 1);
        assert_eq!(state.phase(), Phase::Flushing, "of another round");
        state.flushed(ticket.round);
        state.gone(ticket);
        assert_eq!((state.phase(), state.round()), (Phase::Drained, ticket.round));
    }

    #[test]
    fn what_it_took_without_knowing_is_given_away_too() {
        let (mut state, ticket) = drained();
        state.look(BUSY);
        assert_eq!(state.phase(), Phase::HandingOver);
        state.gone(ticket);
        assert_eq!(state.phase(), Phase::HandingOver, "who heard that it is drained need not wait");
    }

    #[test]
    fn ends_when_the_last_who_waits_leaves() {
        let mut state = State::default();
        let (a, b) = (state.begin(true).unwrap(), state.begin(true).unwrap());
        assert_eq!(a.round, b.round);
        state.gone(a);
        state.gone(a);
        assert_eq!(state.phase(), Phase::HandingOver);
        state.gone(b);
        assert_eq!((state.phase(), state.ended()), (Phase::Serving, Some(End::Deserted)));
        let c = state.begin(true).unwrap();
        state.gone(b);
        assert_eq!(state.phase(), Phase::HandingOver, "a ticket of an earlier round holds nothing");
        state.gone(c);
        assert_eq!(state.phase(), Phase::Serving);
    }

    #[test]
    fn undrain_ends_it_at_any_time() {
        let (mut state, _) = drained();
        assert_eq!(state.undrain(), Ok(true));
        assert_eq!(
            (state.phase(), state.ended(), state.announcement()),
            (Phase::Serving, Some(End::Undrained), Some(false))
        );
        assert_eq!(state.undrain(), Ok(false));
        let again = state.begin(true).unwrap();
        state.gone(again);
        assert_eq!(state.phase(), Phase::Serving, "that the former round went through keeps no later one");
    }

    #[test]
    fn nobody_else_means_no_drain() {
        let mut state = State::default();
        assert_eq!(state.begin(false), Err(Refused::Alone));
        assert_eq!(state.phase(), Phase::Serving);
        let alone = Seen { others: false, ..BUSY };
        state.begin(true).unwrap();
        state.look(alone);
        assert_eq!((state.phase(), state.ended()), (Phase::Serving, Some(End::Alone)));
        let (mut state, _) = drained();
        state.look(Seen { others: false, ..EMPTY });
        assert_eq!(state.phase(), Phase::Serving, "somebody has to serve");
    }

    #[test]
    fn a_process_that_ends_drains_and_is_not_called_off() {
        let mut state = State::default();
        let ticket = state.begin(true).unwrap();
        state.stop(true);
        state.gone(ticket);
        assert_eq!(state.undrain(), Err(Refused::Stopping));
        assert_eq!(state.begin(true), Err(Refused::Stopping));
        assert_eq!(state.phase(), Phase::HandingOver);
        state.look(EMPTY);
        state.flushed(ticket.round);
        state.look(Seen { others: false, ..EMPTY });
        assert_eq!(state.phase(), Phase::Drained);
    }

    #[test]
    fn a_process_that_ends_does_not_wait_for_what_cannot_be() {
        let mut state = State::default();
        state.stop(false);
        assert_eq!((state.phase(), state.announcement()), (Phase::Serving, None));
        let mut state = State::default();
        state.unannounced();
        assert_eq!(state.ended(), None);
        state.stop(true);
        state.unannounced();
        assert_eq!(
            (state.phase(), state.ended(), state.announcement()),
            (Phase::Serving, Some(End::Unannounced), None)
        );
        let mut state = State::default();
        state.begin(true).unwrap();
        state.unannounced();
        assert_eq!(state.phase(), Phase::HandingOver, "a broker that goes on tries again");
    }
}
