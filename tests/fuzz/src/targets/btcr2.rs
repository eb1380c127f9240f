//! DIDs of did:btcr2, their documents and updates, and what others hand over or answer while one is resolved.

use std::sync::LazyLock;

use beacon_btcr2::json::{self, Limits};
use beacon_btcr2::{
    Did, Document, Error, Hash32, Resolution, ResolutionOptions, Resolver, SignedUpdate,
};
use bitcoin::Address;
use bitcoin::address::NetworkUnchecked;
use serde_json::{Value, json};

use crate::btcr2_world::world::{Controller, TIP, World, one_of_everything};
use crate::btcr2_world::{Sources, drive};

/// Any text as a DID: one that is read is written as it was, and its parts make it again.
pub fn did(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Did>() {
        Ok(did) => {
            assert_eq!(did.as_str(), text);
            assert_eq!(Did::new(did.network(), *did.genesis()), did);
        }
        Err(error) => assert_words(&error.to_string()),
    }
}

/// Any JSON as an update of a known document, or as a document of a known DID.
pub fn update(data: &[u8]) {
    let value = match json::parse(data, &Limits::UPDATE) {
        Ok(value) => value,
        Err(error) => return assert_words(&error.to_string()),
    };
    // Whoever reads the canonical form reads the same. It may be longer: 1e20 has 21 digits there.
    let canonical = json::canonical(&value);
    let longer = Limits {
        bytes: usize::MAX,
        ..Limits::UPDATE
    };
    let again = json::parse(canonical.as_bytes(), &longer).expect("it can be read again");
    assert_eq!(again, value);
    assert_eq!(json::canonical(&again), canonical);

    let honest = &*HONEST;
    if let Ok(document) = Document::new(&honest.controller.did, value.clone()) {
        assert_eq!(document.value(), &value);
        assert_eq!(document.value()["id"], honest.controller.did.as_str());
    }
    match SignedUpdate::from_value(value.clone()) {
        Ok(update) => {
            assert_eq!(update.value(), &value);
            assert_eq!(update.id(), json::hash(&value));
            for source in &honest.versions {
                if update.apply(source).is_ok() {
                    // Nobody here has the key: it is an update that was signed, all of it.
                    let signed = &honest.controller.sidecar.updates;
                    assert!(signed.contains(&value), "a forged update is applied");
                }
            }
        }
        Err(error) => assert_error(&error),
    }
}

/// Any sidecar data for a known DID on a known chain: it resolves to what its controller made, or not at all.
pub fn sidecar(data: &[u8]) {
    let honest = &*HONEST;
    let text = [&b"{\"sidecar\":"[..], data, b"}"].concat();
    let options = match ResolutionOptions::from_json(&text) {
        Ok(options) => options,
        Err(error) => return assert_error(&error),
    };
    if let Ok(resolved) = honest
        .world
        .sources
        .resolve(&honest.controller.did, options)
        .0
    {
        assert_eq!(resolved.version_id, honest.controller.version);
        assert_eq!(&resolved.document, &honest.controller.document);
    }
}

/// Any DID, options, signals and objects. `signals` are addresses, each with a height and the number of what it announces: of
/// the sidecar data's updates, maps and proofs, then of `objects`, which the store has.
pub fn resolution(data: &[u8]) {
    let Ok(input) = json::parse(data, &beacon_btcr2::Sidecar::LIMITS) else {
        return;
    };
    let Some(Ok(did)) = input["did"].as_str().map(str::parse::<Did>) else {
        return;
    };
    let options = input["resolutionOptions"].to_string();
    let options = match ResolutionOptions::from_json(options.as_bytes()) {
        Ok(options) => options,
        Err(error) => return assert_error(&error),
    };
    let sources = sources(&input, &options);
    let resolution = sources.resolve(&did, options.clone());
    let backwards = drive(Resolver::new(did.clone(), options), |mut requests| {
        let last = requests.pop().expect("at least one");
        vec![(last.clone(), sources.answer(&last))]
    });
    assert_eq!(backwards, resolution, "the order of answers decides");

    let result = resolution.to_value();
    match &resolution.0 {
        Ok(resolved) => {
            let document = Document::new(&did, result["didDocument"].clone());
            assert_eq!(document.as_ref(), Ok(&resolved.document));
            assert!(resolved.version_id >= 1);
            assert_eq!(resolved.version_id == 1, resolved.updated.is_none());
            if resolved.version_id == 1 {
                assert_eq!(resolved.confirmations, 0);
            }
        }
        Err(error) => {
            assert_error(error);
            assert_eq!(result["didDocument"], Value::Null);
        }
    }
}

fn sources(input: &Value, options: &ResolutionOptions) -> Sources {
    let mut world = World::default();
    let sidecar = &options.sidecar;
    let mut hashes: Vec<Hash32> = (sidecar.updates.iter().chain(&sidecar.cas_updates))
        .map(json::hash)
        .collect();
    let ids = sidecar.smt_proofs.iter().map(|proof| proof["id"].as_str());
    hashes.extend(ids.flatten().filter_map(|id| id.parse::<Hash32>().ok()));
    for object in input["objects"].as_array().into_iter().flatten() {
        hashes.push(world.sources.store(object));
    }
    for signal in input["signals"].as_array().into_iter().flatten() {
        let address = signal[0]
            .as_str()
            .map(str::parse::<Address<NetworkUnchecked>>);
        let height = signal[1]
            .as_u64()
            .and_then(|height| u32::try_from(height).ok());
        let announced = signal[2]
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        if let (Some(Ok(address)), Some(height), Some(announced)) = (address, height, announced)
            && height <= TIP
        {
            let bytes = hashes.get(announced).copied().unwrap_or(Hash32([5; 32]));
            world.announce(&address.assume_checked(), bytes, height);
        }
    }
    world.sources
}

/// A refusal has a code that a resolver may say, and words that fit into a log.
fn assert_error(error: &Error) {
    let code = error.code.as_str();
    assert!(
        code.chars()
            .all(|letter| letter.is_ascii_uppercase() || letter == '_'),
        "{code}"
    );
    assert!(error.code.refines().as_str().len() > 4);
    assert_words(&error.problem.to_string());
}

fn assert_words(words: &str) {
    assert!(
        words.len() < 4_096 && !words.contains(char::is_control),
        "{words:?}"
    );
}

/// A DID with a known history, and the chain that holds it.
struct Honest {
    controller: Controller,
    world: World,
    versions: Vec<Document>,
}

static HONEST: LazyLock<Honest> = LazyLock::new(|| {
    let (controller, world) = one_of_everything();
    let version = |version: u64| {
        let set = |options: &mut ResolutionOptions| {
            options.set_version_id(&version.to_string()).unwrap();
        };
        let Resolution(resolved) = world.resolve_with(&controller, set);
        resolved.unwrap().document
    };
    let versions = (1..=controller.version).map(version).collect();
    Honest {
        controller,
        world,
        versions,
    }
});

pub(crate) fn did_seeds() -> Vec<(&'static str, String)> {
    vec![
        ("x", HONEST.controller.did.to_string()),
        ("k", Controller::with_key(1).did.to_string()),
    ]
}

pub(crate) fn update_seeds() -> Vec<(&'static str, String)> {
    let honest = &*HONEST;
    let updates = &honest.controller.sidecar.updates;
    vec![
        ("first", updates[0].to_string()),
        ("add-beacon", updates[2].to_string()),
        ("document", honest.controller.document.value().to_string()),
    ]
}

pub(crate) fn sidecar_seeds() -> Vec<(&'static str, String)> {
    vec![("honest", HONEST.controller.sidecar.to_value().to_string())]
}

pub(crate) fn resolution_seeds() -> Vec<(&'static str, String)> {
    let honest = &*HONEST;
    let (controller, world) = (&honest.controller, &honest.world);
    let mut everything = json!({
        "did": controller.did.as_str(),
        "resolutionOptions": { "minConf": 1, "sidecar": controller.sidecar.to_value() },
        "objects": [],
        "signals": [],
    });
    let sidecar = &controller.sidecar;
    let mut hashes: Vec<Hash32> = sidecar
        .updates
        .iter()
        .chain(&sidecar.cas_updates)
        .map(json::hash)
        .collect();
    let roots = sidecar
        .smt_proofs
        .iter()
        .map(|proof| proof["id"].as_str().unwrap());
    hashes.extend(roots.map(|root| root.parse::<Hash32>().unwrap()));
    for (address, signals) in &world.sources.signals {
        for signal in signals {
            let announced = hashes
                .iter()
                .position(|hash| hash.0 == signal.bytes)
                .unwrap();
            let signal = json!([address.to_string(), signal.block.height, announced]);
            everything["signals"].as_array_mut().unwrap().push(signal);
        }
    }
    let mut at_a_time = everything.clone();
    at_a_time["resolutionOptions"]["versionTime"] = "2023-11-15T20:00:00Z".into();
    let mut from_a_store = everything.clone();
    from_a_store["resolutionOptions"] =
        json!({ "versionId": "3", "sidecar": { "smtProofs": sidecar.smt_proofs } });
    let objects = sidecar
        .updates
        .iter()
        .chain(&sidecar.cas_updates)
        .chain(&sidecar.genesis_document);
    from_a_store["objects"] = objects.cloned().collect();
    for signal in from_a_store["signals"].as_array_mut().unwrap() {
        // The proofs come first there.
        let number = usize::try_from(signal[2].as_u64().unwrap()).unwrap();
        let (stored, proofs) = (
            hashes.len() - sidecar.smt_proofs.len(),
            sidecar.smt_proofs.len(),
        );
        let moved = if number < stored {
            number + proofs
        } else {
            number - stored
        };
        signal[2] = moved.into();
    }
    let key = Controller::with_key(1);
    let no_update = json!({ "did": key.did.as_str(), "resolutionOptions": {} });
    vec![
        ("everything", everything.to_string()),
        ("at-a-time", at_a_time.to_string()),
        ("from-a-store", from_a_store.to_string()),
        ("no-update", no_update.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the target would see nothing but refusals.
    #[test]
    fn the_seeds_resolve() {
        let versions = resolution_seeds().into_iter().map(|(name, text)| {
            let input: Value = serde_json::from_str(&text).unwrap();
            let did: Did = input["did"].as_str().unwrap().parse().unwrap();
            let options = input["resolutionOptions"].to_string();
            let options = ResolutionOptions::from_json(options.as_bytes()).unwrap();
            let Resolution(result) = sources(&input, &options).resolve(&did, options);
            (name, result.map(|resolved| resolved.version_id))
        });
        let expected = [
            ("everything", Ok(5)),
            ("at-a-time", Ok(2)),
            ("from-a-store", Ok(3)),
            ("no-update", Ok(1)),
        ];
        assert_eq!(versions.collect::<Vec<_>>(), expected);
    }
}
