//! The lines between the coordinator and the participants. Each participant keeps a socket to the coordinator; frames on
//! it are lost, repeated, delayed and damaged, it dies in one direction without anybody noticing, or stays open, dead or
//! alive, beside a newer one.

use std::collections::BTreeMap;

use super::attack::{Guard, Post};
use super::world::{COORDINATOR, Frame, Happening, Name, NodeId, World};

/// Milliseconds after which a silent socket is taken for dead, as the heartbeat of the real transport does it.
const HEARTBEAT_MS: (u64, u64) = (40_000, 60_000);
/// Milliseconds for which a line is cut.
const CUT_MS: (u64, u64) = (1_000, 40_000);
/// Milliseconds that it takes to dial again.
const REDIAL_MS: (u64, u64) = (100, 5_000);

/// What is lost on a participant's newest socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dead {
    /// Everything.
    Both,
    /// What the participant sends.
    Up,
    /// What the coordinator sends.
    Down,
}

/// One participant's sockets.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// The one on which it sends: its newest.
    newest: u32,
    /// The one on which the coordinator answers: where the last fresh message came from.
    bound: u32,
    /// What is lost on the newest one, and until when.
    dead: Option<(Dead, u64)>,
    /// Until when the coordinator takes an older one for alive that is dead.
    stale: Option<u64>,
}

impl Link {
    /// Whether a frame is lost on its way now.
    fn loses(&self, up: bool, now: u64) -> Option<&'static str> {
        let older = !up && self.bound < self.newest;
        if older {
            return self
                .stale
                .is_some_and(|until| now < until)
                .then_some("lost on a dead socket");
        }
        match self.dead.filter(|(_, until)| now < *until)?.0 {
            Dead::Both => Some("cut off"),
            Dead::Up if up => Some("lost on a half-open socket"),
            Dead::Down if !up => Some("lost on a half-open socket"),
            Dead::Up | Dead::Down => None,
        }
    }
}

#[derive(Default)]
pub(super) struct Network {
    links: BTreeMap<NodeId, Link>,
    /// Who sits at the line of a node and changes what it sends.
    pub(super) guard: Guard,
    /// What was sent, as recipients will see it; kept only where somebody wants to know.
    pub(super) post: Post,
}

impl Network {
    fn link(&mut self, member: NodeId) -> &mut Link {
        self.links.entry(member).or_default()
    }

    /// A message that was not here before came on this socket: answers go there.
    pub(super) fn heard(&mut self, member: NodeId, socket: u32) {
        let link = self.link(member);
        link.bound = socket;
        if link.bound == link.newest {
            link.stale = None;
        }
    }
}

impl World {
    /// Puts a frame on its way, with whatever befalls it.
    pub(super) fn transmit(&mut self, from: NodeId, to: NodeId, frame: &Frame) {
        let mut guard = std::mem::take(&mut self.network.guard);
        let frames = guard.pass(from, to, frame);
        self.network.guard = guard;
        for (to, frame) in frames {
            self.carry(from, to, &frame);
        }
    }

    /// Carries a frame, whoever made it.
    pub(super) fn carry(&mut self, from: NodeId, to: NodeId, frame: &Frame) {
        self.network.post.keep(from, to, frame);
        self.tally.messages += 1;
        self.tally.bytes += frame.packed.len() as u64;
        let (up, now) = (to == COORDINATOR, self.clock);
        let member = from.max(to);
        let link = *self.network.link(member);
        let fate = if let Some(lost) = link.loses(up, now) {
            Some(lost)
        } else if self.dice.hits(self.faults.drop) {
            Some("lost")
        } else if self.dice.hits(self.faults.corrupt) {
            self.tally.corrupted += 1;
            Some("corrupted")
        } else {
            None
        };
        self.note(format_args!(
            "{} -> {} {} ({} bytes) {}",
            Name(from),
            Name(to),
            frame.kind,
            frame.packed.len(),
            fate.unwrap_or_default()
        ));
        if fate.is_some() {
            self.tally.lost += 1;
            return;
        }
        let copies = 1 + u64::from(self.dice.hits(self.faults.duplicate));
        for _ in 0..copies {
            let delay = self.latency(member);
            let (frame, socket) = (frame.clone(), link.newest);
            self.schedule(delay, Happening::Arrival { to, frame, socket });
        }
    }

    /// One latency for each link keeps the order of a connection; with faults there is no such order.
    fn latency(&mut self, member: NodeId) -> u64 {
        let base = 5 + member as u64 % 40;
        if !self.faults.any() {
            return base;
        }
        let jitter = self.dice.below(200);
        if self.dice.hits(self.faults.delay) {
            base + jitter + self.dice.below(20_000)
        } else {
            base + jitter
        }
    }

    /// Lets lines break and come back. To be asked every half second.
    pub(super) fn weather(&mut self, members: usize) {
        for member in 1..=members {
            self.mend(member);
        }
        let trouble = [
            (self.faults.partition, Trouble::Cut),
            (self.faults.half_open, Trouble::HalfOpen),
            (self.faults.second_socket, Trouble::SecondSocket),
        ];
        for (rate, trouble) in trouble {
            if self.dice.hits(rate) {
                let member = 1 + usize::try_from(self.dice.below(members as u64)).unwrap_or(0);
                self.strike(member, trouble);
            }
        }
    }

    fn strike(&mut self, member: NodeId, trouble: Trouble) {
        let now = self.clock;
        let (cut, noticed) = (
            now + self.dice.between(CUT_MS.0, CUT_MS.1),
            now + self.dice.between(HEARTBEAT_MS.0, HEARTBEAT_MS.1),
        );
        let coin = self.dice.hits(500);
        let link = self.network.link(member);
        let what = match trouble {
            Trouble::Cut => {
                link.dead = Some((Dead::Both, cut));
                "is cut off"
            }
            // A cut line cannot be half open.
            Trouble::HalfOpen if link.dead.is_some() => return,
            Trouble::HalfOpen => {
                let dead = if coin { Dead::Up } else { Dead::Down };
                link.dead = Some((dead, noticed));
                "has a half-open socket"
            }
            Trouble::SecondSocket => {
                link.newest += 1;
                link.stale = coin.then_some(noticed);
                "opens a second socket"
            }
        };
        self.tally.broken_lines += 1;
        self.note(format_args!("{} {what}", Name(member)));
    }

    /// Cuts a line for so many milliseconds.
    pub(super) fn cut(&mut self, member: NodeId, ms: u64) {
        let until = self.clock + ms;
        self.network.link(member).dead = Some((Dead::Both, until));
        self.note(format_args!("{} is cut off for {ms} ms", Name(member)));
    }

    /// What the heartbeat finds dead is closed, and a new socket opened.
    fn mend(&mut self, member: NodeId) {
        let now = self.clock;
        let link = self.network.link(member);
        if link.stale.is_some_and(|until| until <= now) {
            link.stale = None;
            link.bound = link.newest;
        }
        if link.dead.is_some_and(|(_, until)| until <= now) {
            link.dead = None;
            link.newest += 1;
            self.reconnect(member);
        }
    }

    /// A process has started: the sockets of its last run are closed, which both sides noticed.
    pub(super) fn dial(&mut self, node: NodeId) {
        let members: Vec<NodeId> = match node {
            COORDINATOR => self.network.links.keys().copied().collect(),
            member => vec![member],
        };
        for member in members {
            self.hang_up(member);
        }
    }

    /// A socket is closed and another opened. A cut line stays cut.
    fn hang_up(&mut self, member: NodeId) {
        let link = self.network.link(member);
        link.newest += 1;
        link.dead = link.dead.filter(|(dead, _)| *dead == Dead::Both);
        self.reconnect(member);
    }

    /// A participant dials: what waits on either side is sent at once.
    fn reconnect(&mut self, member: NodeId) {
        let link = self.network.link(member);
        link.bound = link.newest;
        link.stale = None;
        let delay = self.dice.between(REDIAL_MS.0, REDIAL_MS.1);
        let ends = [(member, COORDINATOR), (COORDINATOR, member)];
        for (node, peer) in ends {
            self.schedule(delay, Happening::Connected { node, peer });
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Cut,
    HalfOpen,
    SecondSocket,
}

#[cfg(test)]
mod tests {
    use super::super::settings::Faults;
    use super::*;

    fn frame() -> Frame {
        Frame {
            kind: "test".to_owned(),
            packed: Vec::new().into(),
        }
    }

    /// Whether a frame gets through in each direction: from the participant, and to it.
    fn through(world: &mut World) -> (bool, bool) {
        let mut passes = |from, to| {
            let lost = world.tally.lost;
            world.carry(from, to, &frame());
            world.tally.lost == lost
        };
        (passes(1, COORDINATOR), passes(COORDINATOR, 1))
    }

    fn later(world: &mut World, ms: u64) {
        world.clock += ms;
        world.weather(1);
    }

    #[test]
    fn a_half_open_socket_loses_one_direction_until_the_heartbeat_notices() {
        let mut seen = Vec::new();
        for seed in 0..20 {
            let mut world = World::new(seed, Faults::default());
            assert_eq!(through(&mut world), (true, true));
            world.strike(1, Trouble::HalfOpen);
            seen.push(through(&mut world));
            later(&mut world, HEARTBEAT_MS.1 + 1);
            assert_eq!(through(&mut world), (true, true), "a new socket");
        }
        assert!(seen.contains(&(true, false)) && seen.contains(&(false, true)));
        assert!(!seen.contains(&(true, true)) && !seen.contains(&(false, false)));
    }

    #[test]
    fn a_dead_old_socket_swallows_answers_until_a_fresh_message_comes_on_the_new_one() {
        let mut swallowed = 0;
        for seed in 0..20 {
            let mut world = World::new(seed, Faults::default());
            world.strike(1, Trouble::SecondSocket);
            let (up, down) = through(&mut world);
            assert!(up, "the participant sends on its new socket");
            swallowed += u32::from(!down);
            let newest = world.network.link(1).newest;
            world.network.heard(1, newest);
            assert_eq!(through(&mut world), (true, true));
        }
        assert!((1..20).contains(&swallowed), "{swallowed} of 20");
    }

    #[test]
    fn a_cut_line_loses_everything_and_a_restart_does_not_mend_it() {
        let mut world = World::new(1, Faults::default());
        world.strike(1, Trouble::Cut);
        world.hang_up(1);
        assert_eq!(through(&mut world), (false, false));
        later(&mut world, CUT_MS.1 + 1);
        assert_eq!(through(&mut world), (true, true));
    }
}
