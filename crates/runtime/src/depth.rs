//! How deep a transaction is, for people and programs.

use serde_json::{Value, json};

/// Adds to a view of a transaction how many blocks it is deep, and how many it should be; nothing where the tip is not known.
pub(crate) fn describe(view: &mut Value, height: u32, tip: Option<u32>, wanted: u64) {
    // A tip below the block is older than what was said of the block.
    let Some(above) = tip.and_then(|tip| tip.checked_sub(height)) else {
        return;
    };
    let confirmations = u64::from(above) + 1;
    view["confirmations"] = json!(confirmations);
    view["confirmations_wanted"] = json!(wanted);
    let noun = if wanted == 1 {
        "confirmation"
    } else {
        "confirmations"
    };
    view["depth"] = json!(format!("{confirmations} of {wanted} {noun}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_counted_from_the_block_itself() {
        let depth = |height, tip, wanted| {
            let mut view = json!({});
            describe(&mut view, height, tip, wanted);
            view["depth"].as_str().map(str::to_owned)
        };
        assert_eq!(depth(100, Some(101), 6).unwrap(), "2 of 6 confirmations");
        assert_eq!(depth(100, Some(100), 1).unwrap(), "1 of 1 confirmation");
        assert_eq!(depth(100, Some(99), 6), None);
        assert_eq!(depth(100, None, 6), None);
    }
}
