//! Quotas, and why a framework gets the offers that it gets, for people.

use super::{Style, clean};
use crate::view::{Quantity, Resources, sharing::Explanation};

/// `mezzo framework explain`.
pub(crate) fn explanation(told: &Explanation, _style: Style) -> String {
    let mut text = format!("framework {} ({})\n", clean(&told.framework), told.id);
    for role in &told.roles {
        text.push_str(&format!("\nrole {}\n", clean(&role.role)));
        for reason in &role.reasons {
            text.push_str(&format!("  {}\n", clean(reason)));
        }
    }
    text
}

/// A quota in one cell.
pub(crate) fn amounts(amounts: &Resources) -> String {
    if amounts.0.is_empty() {
        return "-".to_owned();
    }
    let parts: Vec<String> = amounts
        .0
        .iter()
        .map(|(name, amount)| match amount {
            Quantity::Number(number) if ["mem", "disk"].contains(&name.as_str()) => {
                format!("{} {}", clean(name), super::mebibytes(*number))
            }
            Quantity::Number(number) => format!("{} {}", clean(name), super::number(*number)),
            Quantity::Ranges(_) | Quantity::Set(_) => clean(name),
        })
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::PLAIN;
    use super::*;
    use crate::view::sharing::RoleExplanation;

    #[test]
    fn reasons_stand_below_their_role() {
        let told = Explanation {
            framework: "batch".into(),
            id: "f-1".into(),
            connected: true,
            roles: vec![RoleExplanation {
                role: "eng/web".into(),
                reasons: vec!["3 of 4 agents it has declined".into()],
                ..RoleExplanation::default()
            }],
        };
        insta::assert_snapshot!(explanation(&told, PLAIN), @r"
        framework batch (f-1)

        role eng/web
          3 of 4 agents it has declined
        ");
    }

    #[test]
    fn a_quota_fits_a_cell() {
        let quota = Resources(
            [
                ("cpus".to_owned(), Quantity::Number(4.5)),
                ("mem".to_owned(), Quantity::Number(8192.0)),
            ]
            .into(),
        );
        assert_eq!(amounts(&quota), "cpus 4.5, mem 8.0 GiB");
        assert_eq!(amounts(&Resources::default()), "-");
    }
}
