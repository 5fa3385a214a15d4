/* Everything a kind of processor has; included once per kind, since GCC lowers vector types before
 * it clones functions. */
#include "common.inc.c"
#include "depthwise.inc.c"
#include "pointwise.inc.c"
#include "stem.inc.c"
#include "sum.inc.c"
#include "finish.inc.c"
#include "labels.inc.c"
#include "tiles.inc.c"
#include "resample.inc.c"
