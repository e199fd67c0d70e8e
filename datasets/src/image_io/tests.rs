use std::fs::File;
use std::path::Path;

use image::RgbImage;

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_truncated_jpeg_is_an_error_at_every_length() {
    let folder = folder();
    let path = folder.path().join("photo.jpg");
    let image = RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, ((x * y) % 251) as u8]));
    image.save(&path).unwrap();
    assert_eq!(read_rgb(&path).unwrap().dimensions(), (64, 48));
    let whole = std::fs::read(&path).unwrap();
    for keep in [0, 1, 3, 100, whole.len() / 2, whole.len() - 2] {
        std::fs::write(&path, &whole[..keep]).unwrap();
        let error = read_rgb(&path).unwrap_err().to_string();
        assert!(error.contains("photo.jpg"), "{error}");
    }
}

/// Writes a red JPEG whose EXIF data name an orientation, 1 to 8; 6 means that the camera was rotated by 90 degrees.
pub(crate) fn write_turned(path: &Path, width: u32, height: u32, orientation: u8) {
    RgbImage::from_pixel(width, height, image::Rgb([200, 10, 10])).save(path).unwrap();
    let plain = std::fs::read(path).unwrap();
    let tiff: &[u8] = &[b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0];
    let mut exif = vec![0xff, 0xe1, 0, (2 + 6 + tiff.len()) as u8];
    exif.extend(b"Exif\0\0");
    exif.extend(tiff);
    let turned: Vec<u8> = plain[..2].iter().chain(&exif).chain(&plain[2..]).copied().collect();
    std::fs::write(path, turned).unwrap();
}

#[test]
fn the_exif_orientation_of_a_photo_is_applied_unless_it_is_ignored() {
    let folder = folder();
    let path = folder.path().join("turned.jpg");
    write_turned(&path, 32, 16, 6);
    assert_eq!(read_rgb(&path).unwrap().dimensions(), (16, 32));
    assert_eq!(read_photo(&path, ExifOrientation::Ignored).unwrap().dimensions(), (32, 16));
    let header = PhotoHeader::read(&path).unwrap();
    assert!(header.fits_other_reading(ExifOrientation::Applied, [16, 32]) && !header.is_turned_unseen());
    assert!(!header.fits_other_reading(ExifOrientation::Ignored, [16, 32]));
    write_turned(&path, 32, 16, 3);
    assert!(PhotoHeader::read(&path).unwrap().is_turned_unseen());
}

fn write_png(path: &Path, width: u32, height: u32, colour: png::ColorType, depth: png::BitDepth, data: &[u8]) {
    let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
}

#[test]
fn labels_are_the_numbers_in_the_file() {
    let folder = folder();
    let path = folder.path().join("labels.png");
    write_png(&path, 2, 2, png::ColorType::Grayscale, png::BitDepth::Eight, &[0, 7, 254, 255]);
    assert_eq!(read_labels(&path).unwrap().as_slice(), [0, 7, 254, 255]);
    write_png(&path, 2, 2, png::ColorType::Indexed, png::BitDepth::Eight, &[0, 1, 2, 3]);
    assert_eq!(read_labels(&path).unwrap().as_slice(), [0, 1, 2, 3]);
    write_png(&path, 3, 1, png::ColorType::Indexed, png::BitDepth::Two, &[0b0110_1100]);
    assert_eq!(read_labels(&path).unwrap().as_slice(), [1, 2, 3]);
    write_png(&path, 2, 1, png::ColorType::Grayscale, png::BitDepth::Sixteen, &[0, 5, 0, 255]);
    assert_eq!(read_labels(&path).unwrap().as_slice(), [5, 255]);
}

#[test]
fn an_invalid_label_map_says_what_to_do() {
    let folder = folder();
    let path = folder.path().join("labels.png");
    write_png(&path, 1, 1, png::ColorType::Rgb, png::BitDepth::Eight, &[1, 2, 3]);
    assert!(read_labels(&path).unwrap_err().to_string().contains("class indices"));
    write_png(&path, 1, 1, png::ColorType::Grayscale, png::BitDepth::Sixteen, &[1, 0]);
    assert!(read_labels(&path).unwrap_err().to_string().contains("above 255"));
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    assert!(read_labels(&path).unwrap_err().to_string().contains("labels.png"));
    assert!(read_labels(&folder.path().join("none.png")).unwrap_err().to_string().contains("none.png"));
}

/// A PNG of 8-bit grey with this claimed size and hardly any data.
fn claiming_png(path: &Path, width: u32, height: u32) {
    write_png(path, 1, 1, png::ColorType::Grayscale, png::BitDepth::Eight, &[7]);
    let mut bytes = std::fs::read(path).unwrap();
    let header = bytes.windows(4).position(|name| name == b"IHDR").unwrap();
    bytes[header + 4..header + 8].copy_from_slice(&width.to_be_bytes());
    bytes[header + 8..header + 12].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[header..header + 17]).to_be_bytes();
    bytes[header + 17..header + 21].copy_from_slice(&checksum);
    std::fs::write(path, bytes).unwrap();
}

/// The checksum of a PNG chunk, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()));
    !bytes.iter().fold(u32::MAX, step)
}

/// A zlib stream that inflates to 1 + 258 `times` zeros.
fn zeros(times: usize) -> Vec<u8> {
    let (mut bytes, mut bits, mut count) = (vec![0x78, 0x01], 0_u32, 0);
    let mut put = |bytes: &mut Vec<u8>, code: u32, length: u32| {
        // Huffman codes begin with their highest bit.
        for bit in (0..length).rev().map(|at| code >> at & 1) {
            bits |= bit << count;
            count += 1;
            if count == 8 {
                bytes.push(bits as u8);
                (bits, count) = (0, 0);
            }
        }
    };
    // The last block, with fixed codes; a zero; `times` repetitions of 258 bytes at distance 1; the end of the block and padding.
    put(&mut bytes, 0b110, 3);
    put(&mut bytes, 0b0011_0000, 8);
    for _ in 0..times {
        put(&mut bytes, 0b1100_0101, 8);
        put(&mut bytes, 0, 5);
    }
    put(&mut bytes, 0, 7 + 7);
    let length = 1 + 258 * times as u32;
    bytes.extend((((length % 65_521) << 16) | 1).to_be_bytes());
    bytes
}

/// Inserts a chunk behind the header of a PNG.
fn insert_chunk(path: &Path, name: &[u8; 4], data: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let chunk = [&name[..], data].concat();
    let checksum = crc32(&chunk).to_be_bytes();
    bytes.splice(33..33, [&(data.len() as u32).to_be_bytes()[..], &chunk, &checksum].concat());
    std::fs::write(path, bytes).unwrap();
}

/// The largest resident memory of this process so far, in bytes.
#[cfg(target_os = "linux")]
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn a_colour_profile_or_comment_that_inflates_to_gigabytes_costs_little_memory() {
    let folder = folder();
    // 774 MB.
    let bomb = zeros(3_000_000);
    for (chunk, prefix) in [(b"iCCP", &b"name\0\0"[..]), (b"zTXt", b"key\0\0"), (b"iTXt", b"key\0\x01\0\0\0")] {
        let path = folder.path().join("photo.png");
        write_png(&path, 2, 1, png::ColorType::Grayscale, png::BitDepth::Eight, &[5, 7]);
        insert_chunk(&path, chunk, &[prefix, &bomb].concat());
        assert_eq!(read_rgb(&path).unwrap().as_raw(), &[5, 5, 5, 7, 7, 7]);
        assert_eq!(read_labels(&path).unwrap().as_slice(), [5, 7]);
        assert_eq!(PhotoHeader::read(&path).unwrap().size, [1, 2]);
        assert!(peak() < 500 << 20, "{} MiB", peak() >> 20);
    }
}

#[test]
fn a_webp_whose_orientation_claims_gigabytes_is_refused_by_name() {
    let folder = folder();
    let path = folder.path().join("photo.webp");
    RgbImage::new(8, 6).save(&path).unwrap();
    assert_eq!(read_rgb(&path).unwrap().dimensions(), (8, 6));
    let simple = std::fs::read(&path).unwrap();
    // The extended layout: its header says that there is EXIF data, which claim almost 4 GB behind the picture.
    let header = [&b"VP8X\x0a\0\0\0\x08\0\0\0"[..], &[7, 0, 0, 5, 0, 0]].concat();
    let exif = [&b"EXIF"[..], &0xf000_0000_u32.to_le_bytes(), b"Exif\0\0"].concat();
    let chunks = [&b"WEBP"[..], &header, &simple[12..], &exif].concat();
    std::fs::write(&path, [&b"RIFF"[..], &0xf800_0000_u32.to_le_bytes(), &chunks].concat()).unwrap();
    for error in [read_rgb(&path).unwrap_err(), PhotoHeader::read(&path).unwrap_err()] {
        assert!(error.to_string().contains("photo.webp") && error.to_string().contains("more bytes than the file has"), "{error}");
    }
}

fn is_too_large(error: &DataError, name: &str) -> bool {
    matches!(error, DataError::TooLarge { path, .. } if path.ends_with(name)) && error.to_string().contains("--max-pixels")
}

#[test]
fn a_photo_that_claims_a_huge_size_is_refused_by_name_before_it_is_decoded() {
    let folder = folder();
    let png = folder.path().join("claim.png");
    claiming_png(&png, 200_000, 200_000);
    assert!(is_too_large(&read_rgb(&png).unwrap_err(), "claim.png"));
    assert!(is_too_large(&read_labels(&png).unwrap_err(), "claim.png"));
    assert!(is_too_large(&PhotoHeader::read(&png).unwrap_err(), "claim.png"));

    let jpeg = folder.path().join("claim.jpg");
    RgbImage::new(16, 16).save(&jpeg).unwrap();
    let mut bytes = std::fs::read(&jpeg).unwrap();
    let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);
    std::fs::write(&jpeg, bytes).unwrap();
    assert!(is_too_large(&read_rgb(&jpeg).unwrap_err(), "claim.jpg"));

    for name in ["claim.bmp", "claim.tif"] {
        let path = folder.path().join(name);
        RgbImage::new(16, 16).save(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let large = 65_500_u32.to_le_bytes();
        if name == "claim.bmp" {
            bytes[18..22].copy_from_slice(&large);
            bytes[22..26].copy_from_slice(&large);
        } else {
            // The tags ImageWidth and ImageLength, each with one value of four bytes.
            for tag in [0x100_u16, 0x101] {
                let entry: Vec<u8> = tag.to_le_bytes().into_iter().chain([4, 0, 1, 0, 0, 0, 16, 0, 0, 0]).collect();
                let at = bytes.windows(entry.len()).position(|window| window == entry).unwrap();
                bytes[at + 8..at + 12].copy_from_slice(&large);
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let error = read_rgb(&path).unwrap_err();
        // The decoder of TIFF compares the size with the lengths of the strips first.
        assert!(is_too_large(&error, name) || name == "claim.tif" && error.to_string().contains("claim.tif: "), "{error}");
    }
}

#[test]
fn a_panic_of_a_decoder_is_an_error_that_names_the_file() {
    let error = guarded::<()>(Path::new("photo.png"), || panic!("index out of bounds")).unwrap_err().to_string();
    assert!(error.starts_with("photo.png: ") && error.contains("index out of bounds"), "{error}");
}

#[test]
fn float_channels_are_refused_as_by_opencv_and_pillow() {
    // cv2.imread: "TIFFRGBAImageOK: Sorry, can not handle images with 32-bit samples"; PIL: "cannot identify image file".
    let folder = folder();
    let path = folder.path().join("float.tif");
    let image = image::Rgb32FImage::from_pixel(4, 3, image::Rgb([12.0, 200.0, 0.5]));
    image::DynamicImage::ImageRgb32F(image).save(&path).unwrap();
    let error = read_rgb(&path).unwrap_err().to_string();
    assert!(error.contains("float.tif") && error.contains("8 or 16 bits"), "{error}");
}

#[test]
fn channels_that_are_not_supported_are_refused_without_names_of_code() {
    let folder = folder();
    let path = folder.path().join("wide.tif");
    let mut encoder = tiff::encoder::TiffEncoder::new(File::create(&path).unwrap()).unwrap();
    encoder.write_image::<tiff::encoder::colortype::Gray32>(2, 2, &[0, 1, 2, 3]).unwrap();
    let error = read_rgb(&path).unwrap_err().to_string();
    assert!(error.contains("wide.tif: this kind of TIFF is not supported; photos must be grey, RGB or RGBA"), "{error}");

    // Grey with alpha: one strip of 1x1 pixels with two samples of 8 bits.
    let path = folder.path().join("alpha.tif");
    let tags: [[u16; 4]; 9] = [
        [256, 3, 1, 1],
        [257, 3, 1, 1],
        [258, 3, 2, 0x0008],
        [259, 3, 1, 1],
        [262, 3, 1, 1],
        [273, 3, 1, 8],
        [277, 3, 1, 2],
        [279, 3, 1, 2],
        [338, 3, 1, 2],
    ];
    let mut bytes = vec![b'I', b'I', 42, 0, 10, 0, 0, 0, 9, 9];
    bytes.extend((tags.len() as u16).to_le_bytes());
    for [tag, kind, count, value] in tags {
        bytes.extend([tag, kind, count, 0, value, if tag == 258 { 8 } else { 0 }].iter().flat_map(|part| part.to_le_bytes()));
    }
    bytes.extend([0; 4]);
    std::fs::write(&path, bytes).unwrap();
    let error = read_rgb(&path).unwrap_err().to_string();
    assert!(error.contains("alpha.tif: pixels of 16 bits are not supported; photos must be grey, RGB or RGBA"), "{error}");
}

#[test]
fn the_header_of_a_turned_photo_names_both_sizes() {
    let folder = folder();
    let path = folder.path().join("photo.png");
    RgbImage::new(5, 3).save(&path).unwrap();
    let header = PhotoHeader::read(&path).unwrap();
    assert_eq!((header.size, header.upright_size()), ([3, 5], [3, 5]));
    let turned = PhotoHeader { orientation: Orientation::Rotate90, ..header };
    assert_eq!((turned.size, turned.upright_size()), ([3, 5], [5, 3]));
}
