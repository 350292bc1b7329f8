"""Text stubs of the Apple libraries that the extension links: names only, no code.

Each lists the symbols csrc may use, and nothing else, so a misspelled or forgotten one stays
undefined and the audit finds it. What libSystem has comes with zig.
"""

from __future__ import annotations

from pathlib import Path

FRAMEWORKS = "/System/Library/Frameworks"
# name -> (file it installs as, symbols, Objective-C classes)
STUBS: dict[str, tuple[str, str, str]] = {
    "Foundation.framework/Foundation": (
        f"{FRAMEWORKS}/Foundation.framework/Versions/C/Foundation",
        "_NSClassFromString _NSSelectorFromString _NSStringFromClass _NSTemporaryDirectory "
        "_NSLocalizedDescriptionKey",
        "NSAutoreleasePool NSCountedSet NSError NSFileManager NSNumber NSString",
    ),
    "CoreFoundation.framework/CoreFoundation": (
        f"{FRAMEWORKS}/CoreFoundation.framework/Versions/A/CoreFoundation",
        "_CFRelease _CFRetain ___CFConstantStringClassReference",
        "NSArray NSData NSDictionary NSException NSMutableArray NSMutableDictionary NSNull NSSet",
    ),
    "IOSurface.framework/IOSurface": (
        f"{FRAMEWORKS}/IOSurface.framework/Versions/A/IOSurface",
        "_IOSurfaceCreate _IOSurfaceLock _IOSurfaceUnlock _IOSurfaceGetBaseAddress "
        "_IOSurfaceGetAllocSize _kIOSurfaceWidth _kIOSurfaceHeight _kIOSurfaceBytesPerElement "
        "_kIOSurfaceBytesPerRow _kIOSurfaceAllocSize _kIOSurfacePixelFormat",
        "",
    ),
    "Accelerate.framework/Accelerate": (
        f"{FRAMEWORKS}/Accelerate.framework/Versions/A/Accelerate",
        "_cblas_sgemm",
        "",
    ),
    "libobjc": (
        "/usr/lib/libobjc.A.dylib",
        "_objc_msgSend _objc_alloc _objc_alloc_init _objc_opt_new _objc_opt_class "
        "_objc_opt_isKindOfClass _objc_retain _objc_release _objc_autorelease _objc_getClass "
        "_objc_begin_catch _objc_end_catch _objc_terminate ___objc_personality_v0 "
        "_OBJC_EHTYPE_id __objc_empty_cache _sel_registerName _class_getClassMethod "
        "_class_getInstanceMethod _method_getTypeEncoding",
        "NSObject",
    ),
}


def write(folder: Path) -> None:
    """Writes every stub under `folder`, for -F and -L."""
    for name, (installed, symbols, classes) in STUBS.items():
        path = folder / f"{name}.tbd"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            "--- !tapi-tbd",
            "tbd-version: 4",
            "targets: [ arm64-macos ]",
            f"install-name: '{installed}'",
            "exports:",
            "  - targets: [ arm64-macos ]",
            f"    symbols: [ {', '.join(symbols.split())} ]",
        ]
        lines += [f"    objc-classes: [ {', '.join(classes.split())} ]"] if classes else []
        path.write_text("\n".join([*lines, "...", ""]))
