//! The contents of a figure.

use super::panel::Panel;
use crate::colours::ColourMap;

/// What an entry of the legend explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// Blank cells.
    Blank,
    /// Outlines of this colour.
    Outline([u8; 3]),
}

/// A figure of heat maps in rows and columns, with one colour map, one range and one colour bar for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct HeatMapGrid {
    /// Title above the figure; may be empty.
    pub title: String,
    /// Titles of the columns: as many as the longest row has panels, or none.
    pub columns: Vec<String>,
    /// Labels of the rows: as many as rows, or none.
    pub rows: Vec<String>,
    /// The panels, row by row; a place may be empty.
    pub panels: Vec<Vec<Option<Panel>>>,
    /// Text in the middle of empty places; may be empty.
    pub empty: String,
    /// The colour map.
    pub colours: ColourMap,
    /// The values at both ends of the colour map; by default the minimum and maximum finite value of all maps.
    pub range: Option<[f32; 2]>,
    /// Text at the lower and the upper end of the colour bar instead of tick labels.
    pub bar_ends: Option<[String; 2]>,
    /// Label of the colour bar; may be empty.
    pub bar_label: String,
    /// Legend under the figure.
    pub legend: Vec<(Sample, String)>,
    /// Width of a panel in pixels; its height follows from its map.
    pub panel_width: u32,
}
