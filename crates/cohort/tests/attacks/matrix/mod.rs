//! Every type of message, every mutation, every member of the body.
//!
//! The types are the list of the message enum, the mutations the list below; a type or a mutation without cells fails.
//! Each cell starts from the state in which the unchanged message is welcome. What is expected is an exact label (see
//! `attempt::Outcome`), and stands in `expected.md`: all that is not simply malformed, and each combination that does not
//! exist, with its reason.

mod expected;
mod shape;
mod situation;

use std::collections::{BTreeMap, BTreeSet};

use beacon_cohort::message::{KINDS, MAX_TEXT, Message, TYPE_PREFIX};

use crate::attempt::Outcome;
use crate::life::{Scene, life};
use expected::{fits, forms, situations, skipped};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mutation {
    Missing,
    Extra,
    WrongType,
    WrongLength,
    WrongEncoding,
    WrongPhase,
    WrongSession,
    WrongCohort,
    NonMember,
    DuplicateIdentical,
    DuplicateDifferent,
    TooLarge,
    Expired,
    /// To an agent of the role that sends such messages.
    WrongRole,
}

impl Mutation {
    const ALL: [Self; 14] = [
        Self::Missing,
        Self::Extra,
        Self::WrongType,
        Self::WrongLength,
        Self::WrongEncoding,
        Self::WrongPhase,
        Self::WrongSession,
        Self::WrongCohort,
        Self::NonMember,
        Self::DuplicateIdentical,
        Self::DuplicateDifferent,
        Self::TooLarge,
        Self::Expired,
        Self::WrongRole,
    ];
}

/// One thing that was tried.
struct Tried {
    kind: &'static str,
    mutation: Mutation,
    /// For a mutation of form its place and what was done there, else the situation.
    place: String,
    what: &'static str,
    label: String,
}

/// What is wrong with an outcome, whatever its label: nothing may be signed, and a refusal changes nothing.
fn check(tried: &str, scene: &Scene, outcome: &Outcome) {
    assert!(!outcome.signs, "{tried}: the signer was asked");
    let refused = outcome.label.starts_with("e.");
    if refused || outcome.events.is_empty() {
        let before = life().right(scene);
        assert!(outcome.after == before, "{tried}: the state changed");
    }
    if let [Message::Decline(decline)] = &outcome.sent[..] {
        assert_eq!(
            outcome.label,
            format!("session_ended({})", decline.code),
            "{tried}"
        );
        let (before, after) = (life().right(scene), &outcome.after);
        assert!(
            before.without_ended() == after.without_ended(),
            "{tried}: more changed than that it was declined"
        );
    }
    if refused {
        assert!(outcome.sent.is_empty(), "{tried}: something was sent");
        assert!(
            outcome.text.len() < 3 * MAX_TEXT,
            "{tried}: quotes {} bytes of its sender",
            outcome.text.len()
        );
    }
}

/// Mutations of form of one message.
fn tried_forms(scene: &Scene) -> Vec<Tried> {
    let right = life().right(scene);
    let uri = format!("{TYPE_PREFIX}{}", scene.kind);
    let pristine = Message::parse(&uri, &scene.body).unwrap();
    let mut tried = Vec::new();
    for mutant in shape::mutants(&scene.body) {
        let read = Message::parse(&uri, &mutant.body);
        let label = if read.is_ok_and(|message| message == pristine) {
            "the same".to_owned()
        } else {
            let outcome = right.hear(&scene.from, &scene.to, scene.kind, &mutant.body, scene.now);
            let what = format!("{} {} {}", scene.kind, mutant.place, mutant.what);
            check(&what, scene, &outcome);
            // Sidecar data is kept until a contest is settled: it has a limit of its own.
            if mutant.mutation == Mutation::TooLarge && mutant.place != "/sidecar" {
                let kept = serde_json::to_string(&outcome.events).unwrap().len();
                assert!(kept < 8_192, "{what}: {kept} bytes go to the log");
            }
            outcome.label
        };
        tried.push(Tried {
            kind: scene.kind,
            mutation: mutant.mutation,
            place: mutant.place,
            what: mutant.what,
            label,
        });
    }
    tried
}

/// A line of a table, as a failing test shows it: right for copying where the result is right.
fn line(tried: &Tried) -> String {
    let Tried {
        kind,
        mutation,
        place,
        what,
        label,
    } = tried;
    let label = label.replace(" > ", "` > `");
    if place.is_empty() {
        format!("| `{kind}` | {mutation:?} | {what} | `{label}` |")
    } else {
        format!("| `{kind}` | `{place}` | `{what}` | `{label}` |")
    }
}

#[test]
fn a_message_in_another_form_is_malformed_or_means_the_same() {
    let forms = forms();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    for kind in KINDS {
        for tried in tried_forms(life().scene(kind)) {
            let found = forms.iter().position(|[kinds, places, whats, _]| {
                fits(kinds, tried.kind) && fits(places, &tried.place) && fits(whats, tried.what)
            });
            used.extend(found);
            let expected = found.map_or("e.m.malformed", |found| &forms[found][3]);
            if tried.label != expected {
                wrong.push(format!("{} expected {expected}", line(&tried)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let unused: Vec<_> = (0..forms.len())
        .filter(|found| !used.contains(found))
        .map(|found| &forms[found])
        .collect();
    assert!(
        unused.is_empty(),
        "exceptions that never happen: {unused:?}"
    );
}

#[test]
fn a_message_out_of_place_is_refused_with_its_own_code() {
    let mut table = BTreeMap::new();
    for [kind, mutation, what, label] in situations() {
        let twice = table.insert((kind, mutation, what), label);
        assert!(twice.is_none(), "a line stands twice, for {twice:?}");
    }
    let mut wrong = Vec::new();
    for kind in KINDS {
        for tried in situation::tried(life().scene(kind)) {
            let (kind, what) = (tried.kind.to_owned(), tried.what.to_owned());
            let expected = table.remove(&(kind, format!("{:?}", tried.mutation), what));
            if expected.as_ref() != Some(&tried.label) {
                wrong.push(format!("{} expected {expected:?}", line(&tried)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(table.is_empty(), "lines that never happen: {table:?}");
}

/// Cells that ran and cells that were skipped for a reason are all the cells there are.
#[test]
fn every_type_meets_every_mutation_or_there_is_a_reason() {
    let mut run = BTreeSet::new();
    for kind in KINDS {
        let scene = life().scene(kind);
        let tried = tried_forms(scene)
            .into_iter()
            .chain(situation::tried(scene));
        run.extend(tried.map(|tried| (tried.kind, tried.mutation)));
    }
    let mut left_out = BTreeSet::new();
    for [kinds, mutation, reason] in skipped() {
        assert!(reason.len() > 10, "{mutation} of {kinds} has a reason");
        let mut mutations = Mutation::ALL.into_iter();
        let mutation = mutations.find(|known| format!("{known:?}") == mutation);
        for kind in KINDS.iter().filter(|kind| fits(&kinds, kind)) {
            let new = left_out.insert((*kind, mutation.unwrap()));
            assert!(new, "{kind} {mutation:?} is skipped twice");
        }
    }
    let cells: BTreeSet<_> = KINDS
        .iter()
        .flat_map(|kind| Mutation::ALL.map(|mutation| (*kind, mutation)))
        .collect();
    let both: Vec<_> = run.intersection(&left_out).collect();
    assert!(both.is_empty(), "skipped, but they run: {both:?}");
    let met: BTreeSet<_> = run.union(&left_out).copied().collect();
    let neither: Vec<_> = cells.difference(&met).collect();
    assert!(neither.is_empty(), "neither run nor skipped: {neither:?}");
    assert_eq!(
        run.len() + left_out.len(),
        KINDS.len() * Mutation::ALL.len()
    );
}

/// Members that a welcome message cannot have.
const ABSENT: [(&str, &str); 5] = [
    // Where a contest is settled: see `tests/machines/contests.rs`.
    ("keygen/registration_result", "contest"),
    ("sign/authorization_request", "replaces"),
    // In CAS cohorts only: see `tests/machines/cas.rs`.
    ("sign/authorization_request", "map"),
    ("keygen/registration_result", "maps"),
    // Where there is more than fits: see `forged_history`.
    ("keygen/registration_result", "next_round"),
];

/// The bodies that are mutated have every member that the documentation knows.
#[test]
fn the_mutated_bodies_have_every_documented_member() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol.md");
    let page = std::fs::read_to_string(page).unwrap();
    for kind in KINDS {
        let section = page.split(&format!("### `{kind}`\n")).nth(1).unwrap();
        let section = section.split("\n### ").next().unwrap();
        let mut lines = section
            .lines()
            .skip_while(|line| !line.starts_with("| member |"));
        lines.nth(1);
        let rows = lines.take_while(|line| line.starts_with('|'));
        let names = rows.flat_map(|row| {
            let first = row.split('|').nth(1).unwrap();
            first
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        for name in names {
            let body = &life().scene(kind).body;
            let name = name.split('[').next().unwrap();
            let absent = body.get(name).is_none();
            assert_eq!(
                absent,
                ABSENT.contains(&(*kind, name)),
                "{name} of {kind}: {body}"
            );
        }
    }
}
