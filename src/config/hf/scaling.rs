//! A rope's kind and its parameters, as a scaling.

use super::fields::Sources;
use crate::config::error::{ConfigError, Result};
use crate::{Dynamic, Linear, Llama3, LongRope, Ntk, Proportional, RopeScaling, Yarn};

/// gte's NTK-aware scaling, for which transformers has no name: the base times the factor, and every frequency
/// divided by `factor^(2 / rotary_dim)`.
pub(super) fn ntk(sources: &Sources, base: f64, rotary_dim: usize) -> Result<(f64, RopeScaling)> {
    let factor = sources.required("factor")?;
    let divisor = factor.powf(2.0 / rotary_dim as f64);
    Ok((base * factor, RopeScaling::Linear(Linear::new(divisor))))
}

/// The scaling of a kind, by transformers' name. `partial` is the part of the head that turns.
pub(super) fn read(
    sources: &Sources,
    kind: &str,
    partial: Option<f64>,
    max_position_embeddings: Option<usize>,
) -> Result<RopeScaling> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let original = || {
        let found = sources.count_or_top(ORIGINAL)?.or(max_position_embeddings);
        found.ok_or_else(|| ConfigError::missing(ORIGINAL))
    };
    // Where there is none, the new length over the original one.
    let factor_or_ratio =
        |original: usize| match (sources.number("factor")?, max_position_embeddings) {
            (Some(factor), _) => Ok(factor),
            (None, Some(max)) => Ok(max as f64 / original as f64),
            (None, None) => Err(ConfigError::missing("factor")),
        };
    Ok(match kind {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear(Linear::new(sources.required("factor")?)),
        // HunYuan's: a fixed stretch of the base, and no other length's.
        "dynamic" if sources.number("alpha")?.is_some() => {
            if let Some(factor) = sources.number("factor")?.filter(|&factor| factor != 1.0) {
                let given = format!("beside a factor of {factor}");
                return Err(ConfigError::Unread { key: "alpha".to_owned(), given });
            }
            // YaRN's, which the class does not look at.
            for key in ["beta_fast", "beta_slow"] {
                sources.number(key)?;
            }
            RopeScaling::Ntk(Ntk::new(sources.required("alpha")?))
        }
        "dynamic" => RopeScaling::Dynamic(Dynamic::new(
            sources.required("factor")?,
            max_position_embeddings
                .ok_or_else(|| ConfigError::missing("max_position_embeddings"))?,
        )),
        "yarn" => {
            let original = original()?;
            let factor = factor_or_ratio(original)?;
            // transformers takes zero for unset.
            let set = |key: &str| Ok(sources.number(key)?.filter(|&n| n != 0.0));
            let mscales = match [set("mscale")?, set("mscale_all_dim")?] {
                [Some(mscale), Some(all_dim)] => Some((mscale, all_dim)),
                _ => None,
            };
            let mut yarn = Yarn::new(factor, original);
            yarn.beta_fast = set("beta_fast")?.unwrap_or(yarn.beta_fast);
            yarn.beta_slow = set("beta_slow")?.unwrap_or(yarn.beta_slow);
            yarn.truncate = sources.flag("truncate")?.unwrap_or(true);
            yarn.attention_factor = sources
                .number("attention_factor")?
                .unwrap_or_else(|| Yarn::attention_factor_of(factor, mscales));
            RopeScaling::Yarn(yarn)
        }
        "longrope" => {
            let original = original()?;
            let list = |key| sources.required_list(key);
            let mut longrope = LongRope::new(list("short_factor")?, list("long_factor")?, original);
            // PhiMoE has a factor a list; one for both is what a schedule has.
            let short = sources.number("short_mscale")?;
            if let Some(short) = short {
                sources.exactly("long_mscale", short)?;
            }
            longrope.attention_factor = match sources.number("attention_factor")?.or(short) {
                Some(factor) => factor,
                None => LongRope::attention_factor_of(factor_or_ratio(original)?, original),
            };
            // A factor beside the one on cos and sin is not needed, and may be there.
            sources.number("factor")?;
            RopeScaling::LongRope(longrope)
        }
        "llama3" => {
            let mut llama3 = Llama3::new(sources.required("factor")?, original()?);
            llama3.low_freq_factor = sources.required("low_freq_factor")?;
            llama3.high_freq_factor = sources.required("high_freq_factor")?;
            RopeScaling::Llama3(llama3)
        }
        "proportional" => RopeScaling::Proportional(Proportional::new(
            sources.number("factor")?.unwrap_or(1.0),
            partial.unwrap_or(1.0),
        )),
        // "ntk" among them: released files mean formulas by it that differ from one another.
        other => {
            return Err(ConfigError::Value {
                key: sources.ropes.first().map_or_else(String::new, |rope| rope.name("rope_type")),
                expected: "default, linear, dynamic, yarn, longrope, llama3 or proportional",
                given: format!("\"{other}\""),
            });
        }
    })
}
