use image::RgbImage;

use super::layout::{Layout, ticks};
use super::*;

fn ramp(height: usize, width: usize) -> HeatMap {
    HeatMap::new((0..height * width).map(|i| i as f32).collect(), [height, width]).unwrap()
}

fn grid(panels: Vec<Vec<Option<Panel>>>) -> HeatMapGrid {
    HeatMapGrid {
        title: "Maps".to_owned(),
        columns: vec!["vmamba_tiny_s1l8 with a long name".to_owned(), "second".to_owned()],
        rows: Vec::new(),
        panels,
        empty: "nothing here".to_owned(),
        colours: ColourMap::Viridis,
        range: None,
        bar_ends: None,
        bar_label: "gradient".to_owned(),
        legend: Vec::new(),
        panel_width: 120,
    }
}

#[test]
fn all_panels_and_the_bar_share_one_range() {
    let flat = |value: f32| Some(Panel::new(HeatMap::new(vec![value; 4], [2, 2]).unwrap()));
    let figure = grid(vec![vec![flat(0.0), flat(10.0)]]);
    let layout = Layout::new(&figure, 2, &ticks(0.0, 10.0));
    let pixels = figure.pixels().unwrap();
    let at = |column: usize| pixels.get_pixel(layout.left(column) + 60, layout.rows[0].0 + 60).0;
    assert_eq!((at(0), at(1)), (ColourMap::Viridis.colour(0.0), ColourMap::Viridis.colour(1.0)));
    let [left, top, height] = layout.bar;
    assert_eq!(pixels.get_pixel(left + 5, top + height / 2).0[1], ColourMap::Viridis.colour(0.5 - 0.5 / height as f32)[1]);
    let fixed = HeatMapGrid { range: Some([0.0, 20.0]), ..figure }.pixels().unwrap();
    assert_eq!(fixed.get_pixel(layout.left(1) + 60, layout.rows[0].0 + 60).0, ColourMap::Viridis.colour(0.5));
}

#[test]
fn a_picture_shines_through_and_marks_are_seen() {
    let mut panel = Panel::new(HeatMap::new(vec![0.0, 1.0, 1.0, 1.0], [2, 2]).unwrap());
    (panel.photo, panel.alpha) = (Some(RgbImage::from_pixel(3, 3, image::Rgb([200, 100, 0]))), 0.5);
    panel.marks = vec![Mark::Cross([1.0, 1.0]), Mark::Outline { at: [0.5, 0.5], size: [1.0, 1.0], colour: DARK }];
    let figure = HeatMapGrid { columns: Vec::new(), ..grid(vec![vec![Some(panel)]]) };
    let layout = Layout::new(&figure, 1, &ticks(0.0, 1.0));
    let pixels = figure.pixels().unwrap();
    let at = |x: u32, y: u32| pixels.get_pixel(layout.left(0) + x, layout.rows[0].0 + y).0;
    assert_eq!(at(10, 10), [134, 51, 42]);
    assert_eq!((at(60, 60), at(30, 45), at(89, 45)), ([20; 3], [20; 3], [20; 3]));
}

/// A blank cell of the value that would be brightest: it is grey and hatched over the picture, and no end of the range.
#[test]
fn blank_cells_show_the_picture_without_colour_and_do_not_count() {
    let mut panel = Panel::new(HeatMap::new(vec![-3.0, -1.0, -2.0, 0.0], [2, 2]).unwrap());
    (panel.photo, panel.alpha) = (Some(RgbImage::from_pixel(3, 3, image::Rgb([200, 100, 0]))), 0.5);
    panel.blank = vec![false, false, false, true];
    assert_eq!(panel.range(), Some([-3.0, -1.0]));
    let figure = HeatMapGrid { columns: Vec::new(), ..grid(vec![vec![Some(panel)]]) };
    let layout = Layout::new(&figure, 1, &ticks(-3.0, -1.0));
    let pixels = figure.pixels().unwrap();
    let inside = |row: u32, column: u32| {
        let places = (0..58).flat_map(move |y| (0..58).map(move |x| [column * 60 + 1 + x, row * 60 + 1 + y]));
        let colours = places.map(|[x, y]| pixels.get_pixel(layout.left(0) + x, layout.rows[0].0 + y).0);
        colours.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(inside(1, 1), [[59; 3], [205; 3]].into(), "grey and hatched");
    let brightest = ColourMap::Viridis.colour(1.0);
    let mixed = [[200, brightest[0]], [100, brightest[1]], [0, brightest[2]]].map(|[a, b]| ((f32::from(a) + f32::from(b)) / 2.0).round());
    assert_eq!(inside(0, 1), [mixed.map(|part| part as u8)].into(), "the greatest that is shown");
}

#[test]
fn a_legend_and_notes_of_two_lines_have_room_in_the_figure() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("maps.svg");
    let mut panel = Panel::new(ramp(4, 4));
    panel.note = "rows\n-1 to 2".to_owned();
    let legend = vec![(Sample::Blank, "not visited".to_owned()), (Sample::Outline([200, 0, 0]), "a square with longer words".to_owned())];
    let ends = Some(["least", "greatest"].map(str::to_owned));
    let figure = HeatMapGrid { columns: Vec::new(), legend, bar_ends: ends, ..grid(vec![vec![Some(panel)]]) };
    figure.write(None, Some(&svg)).unwrap();
    let text = std::fs::read_to_string(&svg).unwrap();
    for words in ["rows", "-1 to 2", "not visited", "a square with longer words", "least", "greatest"] {
        assert!(text.contains(&format!(">{words}<")), "{words}");
    }
    let number = |line: &str, name: &str| line.split(&format!(" {name}=\"")).nth(1).and_then(|rest| rest.split('"').next()?.parse().ok());
    let height: f32 = number(text.lines().next().unwrap(), "height").unwrap();
    let baselines: Vec<f32> = text.lines().filter(|line| line.starts_with("<text")).filter_map(|line| number(line, "y")).collect();
    assert!(!baselines.is_empty() && baselines.iter().all(|y| *y < height - 4.0), "{baselines:?} in {height}");
    assert!(!text.contains(">0<"), "words in place of numbers");
}

#[test]
fn a_figure_is_written_as_png_and_svg_with_its_words_and_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let (png, svg) = (folder.path().join("maps.png"), folder.path().join("maps.svg"));
    let mut panel = Panel::new(ramp(512, 512));
    panel.note = "half of it".to_owned();
    let figure = grid(vec![vec![Some(panel), None], vec![None, Some(Panel::new(ramp(20, 10)))]]);
    let figure = HeatMapGrid { rows: vec!["before".to_owned(), "after".to_owned()], ..figure };
    figure.write(Some(&png), Some(&svg)).unwrap();
    assert_eq!(image::open(&png).unwrap().to_rgb8(), figure.pixels().unwrap());
    let text = std::fs::read_to_string(&svg).unwrap();
    for word in ["Maps", "second", "before", "after", "gradient", "half of it", "200000", ">nothing here<"] {
        assert!(text.contains(word), "{word}");
    }
    assert!(text.len() < 150_000, "{}", text.len());
}

#[test]
fn figures_without_numbers_or_with_wrong_titles_are_errors() {
    let nothing = Some(Panel::new(HeatMap::new(vec![f32::NAN], [1, 1]).unwrap()));
    assert!(grid(vec![vec![nothing, None]]).pixels().unwrap_err().to_string().contains("finite"));
    let one = grid(vec![vec![Some(Panel::new(ramp(2, 2)))]]);
    assert!(one.pixels().unwrap_err().to_string().contains("2 labels for 1 columns"));
}
