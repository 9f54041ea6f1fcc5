//! What is told of a bake.

use forkd_core::machine::BakeReport;
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;

/// A snapshot that was made, and what of.
#[derive(Debug, Clone, Serialize)]
pub struct BakeSummary {
    #[serde(flatten)]
    pub bake: BakeReport,
    #[serde(rename = "seconds", serialize_with = "forkd_core::json::seconds")]
    pub time: Duration,
    /// The container image, where it was baked from one by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Value>,
    /// The recipe's tests, where it was baked from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tests: Option<Vec<RecipeTestReport>>,
}

/// A recipe's test that passed.
#[derive(Debug, Clone, Serialize)]
pub struct RecipeTestReport {
    pub test: String,
    #[serde(rename = "seconds", serialize_with = "forkd_core::json::seconds")]
    pub time: Duration,
}
