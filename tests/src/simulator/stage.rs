//! What tests of attackers ask of a simulation: to let one loose, to look at what everybody knows and was told, and to go on
//! until something has happened.

use beacon_cohort::coordinator::{self, Cohort};
use beacon_cohort::ids::CohortId;
use beacon_cohort::machine::Rejection;
use beacon_cohort::message::Message;
use beacon_cohort::participant::{self, Membership};
use bitcoin::{OutPoint, Transaction};
use zeroize::Zeroizing;

use super::attack::Letter;
use super::node::Node;
use super::report::Failure;
use super::world::{COORDINATOR, NodeId};
use super::{Goal, Simulation};

impl Simulation {
    /// Lets an attacker sit at a node's line: it decides what leaves for each message. The node counts as dishonest from now
    /// on, and everything that is sent is kept for [`letters`](Self::letters).
    pub fn corrupt(&mut self, node: usize, hand: impl FnMut(Letter) -> Vec<Letter> + 'static) {
        self.world.network.guard.place(node, Box::new(hand));
        self.world.network.post.kept.get_or_insert_default();
    }

    /// The attacker at a node's line goes away.
    pub fn relent(&mut self, node: usize) {
        self.world.network.guard.leave(node);
    }

    /// Sends a message in the name of a node, which its own machine knows nothing of.
    pub fn send(&mut self, from: usize, to: usize, message: &Message) -> Result<(), String> {
        self.corrupt_silently(from);
        let id = format!("attack-{}", self.world.dice.below(u64::MAX));
        let now = self.world.now(from);
        let letter =
            Letter::write(from, to, id, message, now).map_err(|error| error.to_string())?;
        self.send_letter(&letter)
    }

    /// Sends a letter as it is, such as one that was sent before.
    pub fn send_letter(&mut self, letter: &Letter) -> Result<(), String> {
        self.corrupt_silently(letter.from());
        let frame = letter.frame().map_err(|error| error.to_string())?;
        self.world.carry(letter.from(), letter.to, &frame);
        Ok(())
    }

    fn corrupt_silently(&mut self, node: NodeId) {
        self.world.network.guard.dishonest.push(node);
        self.world.network.post.kept.get_or_insert_default();
    }

    /// Keeps everything that is sent from now on.
    pub fn keep_letters(&mut self) {
        self.world.network.post.kept.get_or_insert_default();
    }

    /// Everything that was sent since it is kept, as it left.
    pub fn letters(&self) -> &[Letter] {
        self.world.network.post.kept.as_deref().unwrap_or_default()
    }

    /// The codes of the messages of a kind that went from one node to another, without repetitions.
    pub fn codes(&self, from: usize, to: usize, kind: &str) -> Vec<String> {
        let mut codes: Vec<String> = Vec::new();
        for letter in self.letters() {
            if letter.from() == from && letter.to == to && letter.kind() == kind {
                let code = letter.text("code");
                if !codes.iter().any(|known| known == code) {
                    codes.push(code.to_owned());
                }
            }
        }
        codes
    }

    /// Goes on until something has happened.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), Box<Failure>> {
        let end = self.world.clock + self.settings.limit_s * 1_000;
        while !holds(self) {
            self.next().map_err(|reason| self.failure(reason))?;
            if self.world.clock > end {
                let reason = format!("not within {} s: {what}", self.settings.limit_s);
                return Err(self.failure(reason));
            }
        }
        Ok(())
    }

    /// Lets time pass.
    pub fn pass(&mut self, seconds: u64) -> Result<(), Box<Failure>> {
        let end = self.world.clock + seconds * 1_000;
        while self.world.clock < end {
            self.next().map_err(|reason| self.failure(reason))?;
        }
        Ok(())
    }

    /// Members want updates announced; nobody waits for it.
    pub fn want(&mut self) {
        self.want_updates();
    }

    /// Goes on until all updates that were wanted are in blocks.
    pub fn announce(&mut self) -> Result<(), Box<Failure>> {
        self.advance(Goal::Announced)
    }

    /// The first cohort's id.
    pub fn cohort(&self) -> CohortId {
        self.users
            .cohorts
            .first()
            .copied()
            .unwrap_or(CohortId(uuid::Uuid::nil()))
    }

    /// What the coordinator knows of the first cohort.
    pub fn coordinator(&self) -> Option<&Cohort> {
        self.coordinator
            .machine()
            .state()
            .cohorts
            .get(&self.cohort())
    }

    /// Everything that the coordinator knows.
    pub fn coordinator_state(&self) -> &coordinator::State {
        self.coordinator.machine().state()
    }

    /// The coordinator's log.
    pub fn coordinator_log(&self) -> Result<Vec<coordinator::Event>, String> {
        self.coordinator.log()
    }

    /// What a member knows of the first cohort.
    pub fn member(&self, member: usize) -> Option<&Membership> {
        self.membership(member, self.cohort())
    }

    /// A member's log.
    pub fn member_log(&self, member: usize) -> Result<Vec<participant::Event>, String> {
        self.members.get(member - 1).ok_or("no such member")?.log()
    }

    /// The operator's command.
    pub fn tell_coordinator(
        &mut self,
        command: coordinator::Command,
    ) -> Result<Option<Rejection>, String> {
        let answer = self.coordinator.command(command, &mut self.world)?;
        Ok(answer.and_then(Result::err))
    }

    /// A user's command.
    pub fn tell_member(
        &mut self,
        member: usize,
        command: participant::Command,
    ) -> Result<Option<Rejection>, String> {
        let node = self.members.get_mut(member - 1).ok_or("no such member")?;
        let answer = node.command(command, &mut self.world)?;
        Ok(answer.and_then(Result::err))
    }

    /// A node's process ends, and is started again soon.
    pub fn restart(&mut self, node: usize) {
        match node {
            COORDINATOR => self.coordinator.restart(&mut self.world),
            member => {
                if let Some(node) = self.members.get_mut(member - 1) {
                    node.restart(&mut self.world);
                }
            }
        }
    }

    /// Makes a copy of a member's disk.
    pub fn back_up(&mut self, member: usize) {
        if let Some(node) = self.members.get_mut(member - 1) {
            node.back_up();
        }
    }

    /// A member's process ends, and is started again with the copy that was made of its disk.
    pub fn restore(&mut self, member: usize) -> Result<(), String> {
        let node = self.members.get_mut(member - 1).ok_or("no such member")?;
        node.go_back(&mut self.world)
    }

    /// A member's process ends for ever.
    pub fn vanish(&mut self, member: usize) {
        if let Some(node) = self.members.get_mut(member - 1) {
            node.vanish(&mut self.world);
        }
    }

    /// A member's line is cut for so many seconds.
    pub fn cut(&mut self, member: usize, seconds: u64) {
        self.world.cut(member, seconds * 1_000);
    }

    /// The secret cohort key of a member that attacks.
    pub fn secret_key(&self, member: usize) -> Option<Zeroizing<[u8; 32]>> {
        let path = self.member(member)?.path.as_ref()?;
        Some(self.members.get(member - 1)?.secret_key(path))
    }

    /// Gives a transaction to the network, whoever made it.
    pub fn publish(&mut self, tx: Transaction) -> bool {
        use beacon_cohort::machine::BroadcastOutcome;
        self.world.chain.submit(tx) == BroadcastOutcome::Accepted
    }

    /// The coordinator gives no transaction to the network, as long as this is on.
    pub fn withhold(&mut self, on: bool) {
        self.world.network.guard.dishonest.push(COORDINATOR);
        self.world.withholds = on;
    }

    /// Pays to the first cohort's beacon.
    pub fn deposit(&mut self, sats: u64) -> Option<OutPoint> {
        let script = self.coordinator()?.beacon.as_ref()?.script().to_owned();
        Some(self.world.chain.deposit(&script, sats))
    }

    /// Transactions in blocks that are no deposits, in order.
    pub fn mined(&self) -> Vec<Transaction> {
        self.world.chain.mined().cloned().collect()
    }

    /// What holds for the honest, whatever the others did: memory is what the log gives, one nonce signed once over one
    /// message, and everything that the honest signed they can prove.
    pub fn check_honest(&self) -> Result<(), String> {
        let dishonest = |node| self.world.is_dishonest(node);
        self.coordinator.check_replay()?;
        let honest = (1..).zip(&self.members).filter(|(id, _)| !dishonest(*id));
        for (_, node) in honest {
            node.check_replay()?;
        }
        self.check_contributions()?;
        self.check_kept()?;
        self.check_blame()
    }

    /// Nodes that are honest.
    pub(super) fn honest_members(
        &self,
    ) -> impl Iterator<Item = (NodeId, &Node<participant::Participant>)> {
        (1..)
            .zip(&self.members)
            .filter(|(id, _)| !self.world.is_dishonest(*id))
    }
}
