"""How fast and how good some last blocks are on drawn scenes: python examples/compare_methods.py 20"""

import sys
import time

import denseclip

scenes = int(sys.argv[1])
for preset in ("vanilla", "maskclip", "maskclip-dilated"):
    start = time.perf_counter()
    result = denseclip.evaluate("tiny-rn", "stickers20", limit=scenes, preset=preset, refine="none")
    pace = scenes / (time.perf_counter() - start)
    print(f"{preset}: {result.summary()['mIoU']:.1f} mIoU, {pace:.1f} pictures/s, loading included")
